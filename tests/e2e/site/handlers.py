"""The handlers of the site: what they see and do, they note for the test."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404

from django_ws import ConnectionClosed, Reject, WebSocketHandler
from django_ws.codecs import BytesCodec, TextCodec
from tests.e2e.site.journal import note

PATIENCE = 8.0  # seconds; a wait in a hook never lasts longer


class Noting(WebSocketHandler):
    """Notes the close, under the key in the path."""

    def note(self, event: str, **data: Any) -> None:
        note(self.kwargs["key"], event, **data)

    async def on_close(self) -> None:
        self.note("closed", code=self.close_code, reason=self.close_reason)

    async def until_closed(self) -> None:
        """Wait as a hook without an end of its own does, and note when ``closed`` turns true."""
        give_up = time.monotonic() + PATIENCE
        while not self.closed and time.monotonic() < give_up:  # noqa: ASYNC110 - as users do
            await asyncio.sleep(0.01)
        self.note("noticed" if self.closed else "gave up")


class WithoutHooks(WebSocketHandler):
    pass


# Echoes


class Echo(Noting):
    async def on_message(self, message: Any) -> None:
        await self.send(message)


class TextEcho(Echo):
    codec = TextCodec()


class BytesEcho(Echo):
    codec = BytesCodec()


class MixedEcho(Echo):
    """JSON in text frames, raw data in binary frames."""

    async def on_bytes(self, data: bytes) -> None:
        await self.send_bytes(data)


class UnawaitedEcho(Noting):
    async def on_message(self, message: Any) -> None:
        self.send(message)


class SyncEcho(WebSocketHandler):
    """Every hook is a plain function, and runs in a thread."""

    def on_connect(self) -> None:
        note(self.kwargs["key"], "on_connect")

    def on_open(self) -> None:
        self.send("open")

    def on_message(self, message: Any) -> None:
        self.send(message)

    def on_close(self) -> None:
        note(self.kwargs["key"], "closed", code=self.close_code, reason=self.close_reason)


class Subprotocols(Noting):
    subprotocols = ("v2.chat", "v1.chat")

    async def on_open(self) -> None:
        await self.send({"subprotocol": self.subprotocol})


class ShowRequest(Noting):
    """Sends what it got from the handshake, whatever the URL's arguments are called."""

    async def on_open(self) -> None:
        request = self.request
        await self.send(
            {
                "args": self.args,
                "kwargs": self.kwargs,
                "path": request.path,
                "query": request.GET.dict(),
                "cookies": request.COOKIES,
                "header": request.headers.get("X-Test"),
                "host": request.get_host(),
                "user": str(request.user),
            }
        )


# Refusals


class Refuse(Noting):
    """Refuses in ``on_connect``, in the way that the path names."""

    async def on_connect(self) -> None:
        status: int = self.kwargs["status"]
        match self.kwargs["way"]:
            case "reject":
                await self.reject(status, "no entry")
            case "unawaited":
                self.reject(status, "no entry")
            case "raise":
                raise Reject(status, "no entry", headers=[("X-Why", "because")])
            case "close":
                await self.close()
            case "denied":
                raise PermissionDenied
            case "missing":
                raise Http404

    async def on_open(self) -> None:
        self.note("opened")


class RefuseSync(Noting):
    def on_connect(self) -> None:
        self.reject(self.kwargs["status"], "no entry")


class RefuseReadably(Refuse):
    reject_with = "close"


class NeverConnects(Noting):
    async def on_connect(self) -> None:
        await asyncio.sleep(60)


# Closes and exceptions


class Closes(Noting):
    """Closes with what the message asks for."""

    async def on_message(self, message: Any) -> None:
        await self.send("before the close")
        await self.close(message["code"], message["reason"])


class ClosesInOnOpen(Noting):
    async def on_open(self) -> None:
        await self.close(4000, "at once")

    async def on_message(self, message: Any) -> None:
        self.note("message", message=message)


class ClosesFromTask(Noting):
    async def on_open(self) -> None:
        await self.start_task("closer", self.close_soon)

    async def close_soon(self) -> None:
        await self.close(4001, "by a task")


class Raises(Noting):
    """Raises in the hooks that the path names, joined by ``+``."""

    def raise_in(self, hook: str) -> None:
        self.note(hook)
        if hook in self.kwargs["hooks"].split("+"):
            raise RuntimeError(f"raised in {hook}")

    async def on_connect(self) -> None:
        self.raise_in("on_connect")

    async def on_open(self) -> None:
        self.raise_in("on_open")

    async def on_message(self, message: Any) -> None:
        self.raise_in("on_message")

    async def on_bytes(self, data: bytes) -> None:
        self.raise_in("on_bytes")

    async def on_error(self, error: BaseException) -> None:
        self.raise_in("on_error")

    async def on_close(self) -> None:
        await super().on_close()
        self.raise_in("on_close")


class ActsInOnClose(Noting):
    """Sends, closes and starts a task when all is over."""

    async def on_close(self) -> None:
        await super().on_close()
        self.send("nobody awaits this")
        try:
            await self.send("too late")
        except ConnectionClosed as error:
            self.note("send", code=error.code)
        try:
            self.start_task("late", self.until_closed)
        except ConnectionClosed:
            self.note("start_task")
        await self.close(4999)
        self.note("closed again", code=self.close_code)


class SwallowsCancellation(Noting):
    """A hook that goes on after it was cancelled, for longer than anybody waits."""

    async def on_message(self, message: Any) -> None:
        self.note("in the hook")
        released = _releases.setdefault(self.kwargs["key"], asyncio.Event())
        while not released.is_set():
            try:
                await asyncio.wait_for(released.wait(), PATIENCE)
            except asyncio.CancelledError:
                self.note("swallowed")


class Release(Noting):
    async def on_open(self) -> None:
        _releases[self.kwargs["key"]].set()


_releases: dict[str, asyncio.Event] = {}


# Long hooks


class Lingers(Noting):
    """One hook, which the path names, waits until the connection is closed; a task runs too."""

    async def linger_in(self, hook: str) -> None:
        if self.kwargs["hook"] == hook:
            self.note("in the hook")
            await self.until_closed()

    async def on_connect(self) -> None:
        await self.linger_in("on_connect")

    async def on_open(self) -> None:
        self.start_task("waiting", self.wait)
        await self.linger_in("on_open")

    async def on_message(self, message: Any) -> None:
        self.note("message", message=message)
        await self.linger_in("on_message")

    async def wait(self) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            self.note("task cancelled", message=str(error))
            raise


class LingersInThread(Noting):
    """As above, in a sync hook."""

    def on_message(self, message: Any) -> None:
        self.note("in the hook")
        give_up = time.monotonic() + PATIENCE
        while not self.closed and time.monotonic() < give_up:
            time.sleep(0.01)
        self.note("noticed" if self.closed else "gave up")


class Forever(Noting):
    """A hook that does not look at ``closed`` at all."""

    async def on_message(self, message: Any) -> None:
        self.note("in the hook")
        try:
            await asyncio.sleep(60)
        finally:
            self.note("hook ended")


# Much data


class Counts(Noting):
    """Counts what comes, and says so when told that it was all."""

    async def on_open(self) -> None:
        self.count = 0

    async def on_message(self, message: Any) -> None:
        if message == "how many?":
            await self.send(self.count)
        else:
            self.count += 1


class Floods(Noting):
    """Sends numbered messages of 16 KiB, as many as the client asks for, without waiting."""

    padding = "x" * 16_384

    async def on_message(self, message: Any) -> None:
        number = 0
        while number < message and not self.closed:
            self.send([number, self.padding])
            number += 1
            if number % 8 == 0:
                await asyncio.sleep(0)
        self.note("flooded", sent=number, dropped=self.dropped)
        if not self.closed:
            await self.send("that is all")
        self.note("drained", dropped=self.dropped)


class FloodsDroppingOldest(Floods):
    send_overflow = "drop_oldest"


class FloodsDroppingNewest(Floods):
    send_overflow = "drop_newest"


class BlocksInSend(Noting):
    """Awaits its sends to a client that does not read."""

    async def on_message(self, message: Any) -> None:
        try:
            while True:
                sending = asyncio.ensure_future(self.wait_for_send())
                _, pending = await asyncio.wait([sending], timeout=0.3)
                if pending:
                    self.note("blocked")
                await sending
        except ConnectionClosed as error:
            self.note("raised", code=error.code)
            raise

    async def wait_for_send(self) -> None:
        await self.send("x" * 500_000)
