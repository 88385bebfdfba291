"""What is attacked: a handler for each way in which messages are read."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from typing import Any

from django_ws import Reject, WebSocketHandler
from django_ws.auth import FirstMessageAuthMixin, LoginRequiredMixin
from django_ws.auth.tokens import RestTokenAuthenticator, TicketAuthenticator
from django_ws.codecs import BytesCodec, MessagePackCodec, TextCodec
from django_ws.exceptions import InvalidTopic, TooManyTopics
from tests.e2e.site.journal import note

running = 0  # connections whose middleware have been called, and have not returned


def count(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    """The outermost middleware."""

    async def middleware(ws: WebSocketHandler) -> None:
        global running
        running += 1
        try:
            await func(ws)
        finally:
            running -= 1

    return middleware


class Echo(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await self.send(message)


class TextEcho(Echo):
    codec = TextCodec()


class BytesEcho(Echo):
    codec = BytesCodec()


class PackedEcho(Echo):
    codec = MessagePackCodec()


class SyncEcho(WebSocketHandler):
    def on_message(self, message: Any) -> None:
        self.send(message)


class MixedEcho(Echo):
    async def on_bytes(self, data: bytes) -> None:
        await self.send_bytes(data)


class Limited(Echo):
    rate_limit = "20/s"
    idle_timeout = 1.0
    max_message_size = 1000
    subprotocols = ["chat.v1", "chat.v2"]


class Topics(WebSocketHandler):
    """Joins, and speaks in, what the client names."""

    async def on_message(self, message: Any) -> None:
        try:
            await self.subscribe(message)
            await self.broadcast(message, self.id)
        except (InvalidTopic, TooManyTopics) as error:
            raise Reject(403) from error

    async def on_broadcast(self, topic: str, message: Any) -> None:
        await self.send([topic, message])


class Changing(WebSocketHandler):
    """Changes its room with each message, and waits for nothing."""

    async def on_message(self, message: Any) -> None:
        self.unsubscribe(self.subscriptions)
        self.subscribe(message)


class News(WebSocketHandler):
    topics = ("news",)


class Noting(Echo):
    """Notes each hook that runs, under the first word of the query."""

    def note(self, hook: str) -> None:
        note(self.request.META["QUERY_STRING"].partition("&")[0], hook)

    async def on_connect(self) -> None:
        self.note("on_connect")

    async def on_open(self) -> None:
        self.note("on_open")

    async def on_message(self, message: Any) -> None:
        self.note("on_message")
        await self.send(message)

    async def on_close(self) -> None:
        self.note("on_close")


class Private(LoginRequiredMixin, Noting):
    """For those who are logged in."""


class Slow(Noting):
    """Takes its time to refuse."""

    async def on_connect(self) -> None:
        self.note("on_connect")
        await asyncio.sleep(0.6)  # longer than it takes to be seen as slow, and read ahead
        raise Reject(403)


class FirstMessage(FirstMessageAuthMixin, Noting):
    first_message_authenticators = [RestTokenAuthenticator, TicketAuthenticator]
    first_message_seconds = 1.0


class Hangs(WebSocketHandler):
    """Until ``WS_CONNECT_TIMEOUT``."""

    async def on_connect(self) -> None:
        await asyncio.Event().wait()


class Numbers(WebSocketHandler):
    """What is left in the process: memory in MiB, file descriptors, connections and objects."""

    def on_message(self, message: Any) -> None:
        gc.collect()
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        self.send(
            {
                "memory": pages * os.sysconf("SC_PAGE_SIZE") // 2**20,
                "files": len(os.listdir("/proc/self/fd")),
                "running": running,
                "objects": len(gc.get_objects()),
            }
        )
