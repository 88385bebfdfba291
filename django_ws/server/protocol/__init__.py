"""The fast WebSocket protocol for uvicorn: ``--ws django_ws.server.protocol:FastProtocol``.

Start with ``protocol.py``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_ws.server.protocol.protocol import FastProtocol

__all__ = ["FastProtocol"]


def __getattr__(name: str) -> Any:
    if name == "FastProtocol":  # needs the websockets library; its neighbours do not
        from django_ws.server.protocol.protocol import FastProtocol

        return FastProtocol
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
