"""Fails where a coverage pragma has no reason beside it; lists those that have one.

The form is ``# pragma: no cover - why no test can reach this``.
"""

import re
import sys
from pathlib import Path

PRAGMA = re.compile(r"#\s*pragma[:\s]?\s*no\s*(?:cover|branch)(?P<reason>.*)", re.IGNORECASE)
REASON = re.compile(r"\s+-\s+\w.*\s\w")  # two words at least


def main() -> int:
    bare = 0
    for path in sorted(Path("django_ws").rglob("*.py")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            found = PRAGMA.search(line)
            if found is None:
                continue
            if REASON.match(found["reason"]):
                print(f"{path}:{number}: {found[0]}")
            else:
                bare += 1
                print(
                    f"{path}:{number}: {found[0]!r} gives no reason. "
                    "Write '# pragma: no cover - why no test can reach this'.",
                    file=sys.stderr,
                )
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
