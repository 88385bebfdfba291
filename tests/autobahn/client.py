"""The client that a case of the suite drives, and the verdict on what the server did.

It is today's ``autobahn``, the successor of the client that the suite was written for, with what
the suite adds to it. Names in camel case are theirs.
"""

from __future__ import annotations

import asyncio
import selectors
import time
import types
from collections.abc import Callable, Iterable
from typing import Any

from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol

from tests.autobahn.cases import CaseClass, as_bytes, group_of, number_of
from tests.autobahn.verdict import Verdict

MOST_LINES = 40  # of what went over the wire, in a report
LEAST_MESSAGES, ENOUGH_BYTES = 50, 2 * 2**20  # of a case with compression, where not all are sent


async def verdicts(
    url: str, cases: Iterable[CaseClass], seconds: float = 120.0, in_full: bool = False
) -> list[Verdict]:
    """One after the other: side by side they would make each other's clocks ring late.

    ``seconds`` is the limit for one case. Of the 1,000 messages of each case with compression only
    some are sent, unless ``in_full``.
    """
    return [await _verdict(url, case, seconds, in_full) for case in cases]


def run(
    url: str, cases: Iterable[CaseClass], seconds: float = 120.0, in_full: bool = False
) -> list[Verdict]:
    """The same in an event loop of its own, whose timers are exact enough: ``epoll`` waits for
    whole milliseconds, and some cases send thousands of pieces with a pause after each.
    """

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(verdicts(url, cases, seconds, in_full))


async def _verdict(url: str, case: CaseClass, seconds: float, in_full: bool) -> Verdict:
    if group_of(number_of(case)) >= 12 and not in_full:
        count = max(LEAST_MESSAGES, ENOUGH_BYTES // case.LEN)
        case = type(case.__name__, (case,), {"COUNT": min(case.COUNT, count)})
    loop = asyncio.get_running_loop()
    factory = WebSocketClientFactory(url, loop=loop)
    factory.logFrames = True
    factory.setProtocolOptions(failByDrop=False)
    # Theirs lets timers ring up to a second too early.
    factory._batched_timer = types.SimpleNamespace(call_later=loop.call_later)
    client = Client(factory, case)
    try:
        await loop.create_connection(lambda: client, factory.host, factory.port)
        await asyncio.wait_for(client.over, seconds)
    except TimeoutError:
        client.fail(f"it was not over after {seconds:g} s")
        client.transport.abort()
        await asyncio.wait_for(client.over, seconds)
    return client.verdict()


class Client(WebSocketClientProtocol):
    """One connection: ``self.p`` of a case."""

    def __init__(self, factory: Any, case: CaseClass) -> None:
        super().__init__()
        self.factory = factory
        self.loop = factory.loop
        self.number = number_of(case)
        self.over = self.loop.create_future()
        self.connectionWasOpen = False
        self.createWirelog = True  # calls logTxFrame and logRxFrame, which count as well
        self.txFrameStats: dict[int, int] = {}
        self.rxFrameStats: dict[int, int] = {}
        self._began = time.monotonic()
        self._fault = ""  # why it has failed, where the case does not say so
        self._timers: list[asyncio.TimerHandle] = []
        self._lines: list[str] = []
        self._unsent: list[bytes] = []
        self.runCase = case(self)

    # What cases call

    def enableWirelog(self, enable: bool) -> None: ...

    def continueLater(self, delay: float, act: Callable[[], None], tag: str = "") -> None:
        self._timers.append(self.loop.call_later(delay, self._run_if_open, act))

    def killAfter(self, delay: float) -> None:
        self.continueLater(delay, self._fail_connection)

    def closeAfter(self, delay: float) -> None:
        self.continueLater(delay, self.sendClose)

    def sendFrame(self, opcode: int, payload: Any = b"", *args: Any, **kwargs: Any) -> None:
        super().sendFrame(opcode, as_bytes(payload), *args, **kwargs)

    def sendMessage(self, payload: Any, *args: Any, **kwargs: Any) -> None:
        if self.state == self.STATE_OPEN:  # otherwise theirs raises, and did not
            super().sendMessage(as_bytes(payload), *args, **kwargs)

    def sendMessageFrameData(self, payload: Any, *args: Any, **kwargs: Any) -> Any:
        return super().sendMessageFrameData(as_bytes(payload), *args, **kwargs)

    def sendCloseFrame(self, code: Any = None, reasonUtf8: Any = None, isReply: Any = False) -> Any:
        super().sendCloseFrame(code, as_bytes(reasonUtf8), isReply)

    # The suite runs on Twisted, which sends in one piece what was written in one turn of its loop

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._write = transport.write
        super().connection_made(_Gathering(transport, self._gather))

    def _gather(self, data: bytes) -> None:
        if not self._unsent:
            self.loop.call_soon(self._flush)
        self._unsent.append(data)

    def _flush(self) -> None:
        data, self._unsent = self._unsent, []
        if data and self.transport is not None:
            self._write(b"".join(data))

    def _closeConnection(self, abort: bool = False) -> None:
        if not abort:
            self._flush()
        super()._closeConnection(abort)

    # What cases are told

    def onOpen(self) -> None:
        self.connectionWasOpen = True
        self._run(self.runCase.onOpen)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._run(self.runCase.onMessage, self._as_text(payload), isBinary)

    def onPong(self, payload: bytes) -> None:
        self._run(self.runCase.onPong, self._as_text(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._run(self.runCase.onClose, wasClean, code, reason)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for timer in self._timers:
            timer.cancel()
        self._note(f"the TCP connection was ended by {'me' if self.droppedByMe else 'the server'}")
        self._run(self.runCase.onConnectionLost, self.failedByMe)
        self.over.set_result(None)

    def _run_if_open(self, act: Callable[[], None]) -> None:
        if self.state != self.STATE_CLOSED:
            self._run(act)

    def _run(self, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except Exception as error:  # in the suite or here: no fault of the server, but no pass
            self.fail(repr(error))
            self.dropConnection(abort=True)

    def _as_text(self, payload: bytes) -> str | bytes:
        # Compressed messages are compared with a file.
        return payload if group_of(self.number) >= 12 else payload.decode("latin-1")

    def logTxFrame(self, head: Any, payload: bytes, repeat: Any, chopsize: Any, sync: Any) -> None:
        self.txFrameStats[head.opcode] = self.txFrameStats.get(head.opcode, 0) + 1
        self._note_frame(">", head, payload)

    def logRxFrame(self, head: Any, payload: list[bytes]) -> None:
        self.rxFrameStats[head.opcode] = self.rxFrameStats.get(head.opcode, 0) + 1
        self._note_frame("<", head, b"".join(payload[:1]))

    # The verdict

    def fail(self, why: str) -> None:
        self._fault = self._fault or why

    def verdict(self) -> Verdict:
        case = self.runCase
        behavior = "FAILED" if self._fault else case.behavior
        who = "me" if self.closedByMe else "the server"
        lines = [
            f"{self.number} {behavior}, close {case.behaviorClose}: {_short(case.DESCRIPTION)}",
            f"  {self._fault or case.result} {case.resultClose}",
            f"  expected: {_short(repr(case.expected))}, close {case.expectedClose}",
            f"  received: {_short(repr(case.received))}, closed by {who}, {self.remoteCloseCode}",
            *(f"    {line}" for line in self._lines),
        ]
        return Verdict(self.number, behavior, case.behaviorClose, "\n".join(lines))

    def _note_frame(self, way: str, head: Any, payload: bytes) -> None:
        flags = f"opcode {head.opcode}, fin {int(head.fin)}, rsv {head.rsv}"
        self._note(f"{way} {flags}, {head.length} bytes {payload[:40]!r}")

    def _note(self, line: str) -> None:
        if len(self._lines) < MOST_LINES:
            self._lines.append(f"{time.monotonic() - self._began:.3f} s {line}")


class _Gathering:
    """A transport whose ``write`` is another one."""

    def __init__(self, transport: asyncio.Transport, write: Callable[[bytes], None]) -> None:
        self._transport = transport
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:120]}..."
