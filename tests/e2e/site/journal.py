"""What happens in the server, told to the test line by line through a pipe."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from typing import Any

KEY = re.compile(r"\b[0-9a-f]{32}\b")
_pipe = int(os.environ["E2E_JOURNAL"])


def note(key: str | None, event: str, **data: Any) -> None:
    """Write one line; ``time`` is the machine's monotonic clock, the same in every process."""
    line = json.dumps({"key": key, "event": event, "time": time.monotonic(), **data}, default=repr)
    os.write(_pipe, line.encode() + b"\n")  # less than PIPE_BUF: threads do not mix lines


class JournalLogHandler(logging.Handler):
    """Log records as events; their key is the one in the path that the message names."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()[:500]
        key = KEY.search(message)
        error = record.exc_info[1] if record.exc_info else None
        note(
            key[0] if key else None,
            "log",
            logger=record.name,
            level=record.levelname,
            message=message,
            error=repr(error)[:500] if error else None,
        )
