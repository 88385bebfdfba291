"""The WebSocket close codes that the library sends or reports."""

from enum import IntEnum


class CloseCode(IntEnum):
    """Why a connection ended: RFC 6455 section 7.4 below 4000, this library's own above.

    Members are plain integers: ``ws.close_code == 1001`` and
    ``ws.close_code is CloseCode.GOING_AWAY`` need no conversion in either direction.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005  # never on the wire: the client closed without a code
    ABNORMAL = 1006  # never on the wire: the client vanished without a close frame
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    TOO_LARGE = 1009
    INTERNAL_ERROR = 1011
    RESTARTING = 1012
    TRY_AGAIN_LATER = 1013
    LOGIN_ENDED = 4401
    FORBIDDEN = 4403
    IDLE = 4408
    RATE_LIMITED = 4429


def close_code_of(status: int) -> int:
    """The close code that stands for an HTTP error status, after the accept."""
    return int(CloseCode.INTERNAL_ERROR) if status == 500 else 4000 + status


def status_of(code: int) -> int:
    """The HTTP status that stands for a close code, before the accept: 403 for most."""
    if 4400 <= code < 4600:
        return code - 4000
    return 503 if code in (CloseCode.RESTARTING, CloseCode.TRY_AGAIN_LATER) else 403


def is_sendable(code: int) -> bool:
    """Whether an endpoint may put this code into a close frame (RFC 6455, 7.4.1 and 7.4.2)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
