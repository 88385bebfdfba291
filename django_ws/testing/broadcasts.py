"""captured_broadcasts: what the code under test has broadcast, for assertions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from django_ws.pubsub.envelope import Broadcast, put_together
from django_ws.pubsub.outgoing import Disconnection, Outgoing, observers


@dataclass(frozen=True)
class CapturedBroadcast:
    """One broadcast, or order to disconnect.

    ``message`` is what receivers get: it has made the round trip through JSON, so a date is a
    ``str``; None for an order. ``exclude`` has ids of connections, ``exclude_users`` topics of
    users (``user_topic``). ``code`` and ``reason`` are those of an order. ``using`` is the alias
    of ``WS_BROADCAST``.
    """

    action: Literal["broadcast", "disconnect"]
    topics: list[str]
    message: Any
    exclude: list[str]
    exclude_users: list[str]
    using: str
    code: int | None = None
    reason: str = ""


class captured_broadcasts:
    """``with captured_broadcasts() as captured: ...``, or ``async with``.

    Gives a list to which everything is added that is broadcast in the block, in any thread of
    the process: by ``broadcast``, ``abroadcast``, ``broadcast_many``, ``broadcast_on_commit``
    (when the transaction commits: see ``TestCase.captureOnCommitCallbacks``), by handlers, and by
    a ``Publisher``; and the orders of ``disconnect``. Each is delivered all the same; with
    ``deliver=False`` it is not, and needs no backend.
    """

    def __init__(self, *, deliver: bool = True) -> None:
        self._deliver = deliver
        self._captured: list[CapturedBroadcast] = []

    def __enter__(self) -> list[CapturedBroadcast]:
        self._captured = []
        observers.append(self._observe)
        return self._captured

    def __exit__(self, *exc_info: object) -> None:
        observers.remove(self._observe)

    async def __aenter__(self) -> list[CapturedBroadcast]:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    def _observe(self, outgoing: Outgoing, using: str) -> bool:
        message = Broadcast("any", put_together(outgoing.content)).message()
        is_order = isinstance(outgoing, Disconnection)
        _, code, reason = message if is_order else (None, None, "")
        self._captured.append(
            CapturedBroadcast(
                "disconnect" if is_order else "broadcast",
                list(outgoing.topics),
                None if is_order else message,
                list(outgoing.exclude),
                list(outgoing.exclude_users),
                using,
                code,
                reason,
            )
        )
        return self._deliver
