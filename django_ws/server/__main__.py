"""``python -m django_ws.server mysite.asgi:application``: ``runws`` without ``manage.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from django_ws.server.options import Options, add_arguments
from django_ws.server.workers.running import serve


def new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m django_ws.server",
        description="Serve an ASGI application, its WebSockets above all, with several workers.",
    )
    parser.add_argument(
        "application", metavar="MODULE:NAME", help="for example mysite.asgi:application"
    )
    parser.add_argument(
        "--app-dir",
        metavar="DIR",
        help="where the module is looked for first (default: the current folder)",
    )
    add_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser()
    parsed = parser.parse_args(arguments)
    if ":" not in parsed.application:
        parser.error(f"{parsed.application!r} is not MODULE:NAME, as in mysite.asgi:application")
    # Workers inherit it. The current folder stands there already: python -m puts it there.
    if parsed.app_dir is not None:
        sys.path.insert(0, parsed.app_dir)
    return serve(parsed.application, Options.of(vars(parsed)))


if __name__ == "__main__":
    sys.exit(main())
