"""``python -m tests.autobahn ws://127.0.0.1:9001/ [CASES] [--repeat N] [--full] [-v]``."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from tests.autobahn.cases import cases
from tests.autobahn.client import run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.autobahn",
        description="The Autobahn test suite against a server that echoes text and bytes, takes "
        "messages of 20 MiB, and agrees to permessage-deflate for groups 12 and 13.",
    )
    parser.add_argument("url")
    parser.add_argument("cases", nargs="?", default="*", help="patterns with commas: '1.*,9.1.1'")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="each case so often")
    parser.add_argument("--full", action="store_true", help="all messages of groups 12 and 13")
    parser.add_argument("-v", "--verbose", action="store_true", help="what was not plainly OK")
    options = parser.parse_args()
    logging.disable()  # autobahn's
    began = time.monotonic()
    chosen = list(cases(options.cases.split(",")).values()) * options.repeat
    found = run(options.url, chosen, in_full=options.full)
    for verdict in found:
        if not verdict.behavior == verdict.close == "OK" and not verdict.is_skipped:
            head, _, rest = verdict.report.partition("\n")
            print(head, *([rest] if options.verbose else []), sep="\n")
    failed = sum(verdict.has_failed for verdict in found)
    counts = Counter(verdict.behavior for verdict in found)
    told = ", ".join(f"{count} {behavior}" for behavior, count in counts.most_common())
    print(f"{len(found)} cases in {time.monotonic() - began:.0f} s: {told}; {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
