"""The handler of the counter demo."""

from typing import Any

from counter.models import Counter, key_of
from django_ws import WebSocketHandler
from django_ws.exceptions import InvalidMessage


class CounterHandler(WebSocketHandler):
    """Shows the counter of whoever is logged in, and changes it.

    The page sends ``{"do": "increment"}`` or ``{"do": "reset"}``. The answer is the broadcast,
    which goes to all tabs of the user. The hooks are sync, so they use the ORM as a view does.
    Whether a session or a token has logged the user in is the affair of WS_MIDDLEWARE.
    """

    def get_topics(self) -> list[str]:
        return [key_of(self.request.user)]

    def on_open(self) -> None:
        # The topic is joined already: a change after this read is broadcast to this tab as well.
        self.start_ping(interval=20)
        self.send({"you": self.request.user.get_username() or None})
        self.show()

    def on_message(self, message: Any) -> None:
        key = key_of(self.request.user)
        match message:
            case {"do": "increment"}:
                Counter.increment(key)
            case {"do": "reset"}:
                Counter.reset(key)
            case _:
                raise InvalidMessage("send an increment or a reset")

    def on_invalid_message(self, error: InvalidMessage) -> None:
        self.send({"error": error.reason})  # and the connection goes on

    def on_broadcast_gap(self, topics: frozenset[str]) -> None:
        self.show()

    def show(self) -> None:
        self.send(Counter.read(key_of(self.request.user)).state())
