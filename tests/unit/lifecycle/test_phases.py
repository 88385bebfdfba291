"""Each event in each phase of a connection, alone and together with another in the same turn of
the loop: one answer to the client, one ``on_close`` for one ``on_open``, and nothing left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from django_ws import Reject, WebSocketHandler
from django_ws.lifecycle.phases import TABLE, Event, Phase, Reaction
from django_ws.lifecycle.restart import close_for_restart
from django_ws.pubsub.hub.registry import hub_of
from tests.support.asgi_peer import Peer, turns, until

TOPIC = "a topic of a phase"
UNANSWERED = {Phase.HANDSHAKE, Phase.CONNECTING}
WAS_ACCEPTED = {Phase.FIRST_MESSAGE, Phase.HANDED_OVER, Phase.OPENING, Phase.OPEN}


class Waits(WebSocketHandler):
    """Waits in the hook ``waits_in``; notes which hooks are called, and starts a task."""

    waits_in = ""
    topics = (TOPIC,)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.go_on = asyncio.Event()
        self.called: list[str] = []

    async def hook(self, name: str) -> None:
        self.called.append(name)
        if name == self.waits_in:
            await self.go_on.wait()

    async def on_connect(self) -> None:
        await self.hook("on_connect")

    async def on_open(self) -> None:
        self.start_task("sleeper", asyncio.sleep, args=[1000])
        await self.hook("on_open")

    async def on_message(self, message: Any) -> None:
        await self.hook("on_message")

    async def on_close(self) -> None:
        await self.hook("on_close")


class Refuses(Waits):
    async def on_connect(self) -> None:
        self.reject(404)
        await self.hook("on_connect")


class FirstMessage(Waits):
    async def authenticate_first(self, message: Any) -> None:
        await self.hook("authenticate_first")


async def application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


waiting_in_middleware: list[asyncio.Event] = []


def waits(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        go_on = asyncio.Event()
        waiting_in_middleware.append(go_on)
        await go_on.wait()
        await func(ws)

    return middleware


class Situation(NamedTuple):
    """A phase, and how a connection comes there."""

    phase: Phase
    handler: Any = Waits
    waits_in: str = ""
    message: bool = False  # comes first
    closes: bool = False  # we close then
    leaves: bool = False  # the client closes then
    middleware: tuple[str, ...] = ()


SITUATIONS = {
    "the middleware": Situation(Phase.HANDSHAKE, middleware=(f"{__name__}.waits",)),
    "no first message": Situation(Phase.FIRST_MESSAGE, FirstMessage),
    "authenticate_first": Situation(
        Phase.FIRST_MESSAGE, FirstMessage, "authenticate_first", message=True
    ),
    "on_connect": Situation(Phase.CONNECTING, waits_in="on_connect"),
    "an application": Situation(Phase.HANDED_OVER, application),
    "on_open": Situation(Phase.OPENING, waits_in="on_open"),
    "idle": Situation(Phase.OPEN),
    "on_message": Situation(Phase.OPEN, waits_in="on_message", message=True),
    "on_connect after reject()": Situation(Phase.REFUSED, Refuses, "on_connect"),
    "on_message after our close": Situation(
        Phase.CLOSING, waits_in="on_message", message=True, closes=True
    ),
    "on_message after the client's": Situation(
        Phase.CLOSING, waits_in="on_message", message=True, leaves=True
    ),
    "on_close": Situation(Phase.CLOSED, waits_in="on_close", closes=True),
}


def test_there_is_a_situation_for_each_phase() -> None:
    assert {situation.phase for situation in SITUATIONS.values()} == set(Phase)


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(Event)
    assert all(set(row) == set(Phase) for row in TABLE.values())
    assert {reaction for row in TABLE.values() for reaction in row.values()} == set(Reaction)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that leaves is noticed at once, also while a hook runs."""
    monkeypatch.setattr("django_ws.connection.inbound.SWEEP_SECONDS", 0.001)


class Run:
    """One connection in one situation. ``async with`` it, let events happen, then ``end``."""

    def __init__(self, situation: Situation) -> None:
        self.situation = situation
        handler = situation.handler
        if situation.waits_in:
            handler = type(handler.__name__, (handler,), {"waits_in": situation.waits_in})
        opens = situation.phase not in UNANSWERED | {Phase.REFUSED}
        self.peer = Peer(
            handler,
            opens=opens,
            middleware=situation.middleware,
            extensions={"websocket.http.response": {}},
        )

    async def __aenter__(self) -> Run:
        hub_of("default").topics.keep("a topic of this test")  # makes what the hub has anyway
        await turns()
        self.before = asyncio.all_tasks()
        situation, peer = self.situation, self.peer
        await peer.__aenter__()
        await turns()
        self.handler = peer.handler
        self.life = self.handler._alive
        if situation.message:
            peer.say('"m"')
            await turns()
        if situation.closes:
            self.handler.close(4001)
            await turns()
        if situation.leaves:
            peer.leave(code=4002)
            await until(lambda: self.handler.closed)
        assert self.life.phase is situation.phase
        self.told_before = len(self.told)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.peer.__aexit__(*error)

    @property
    def told(self) -> list[tuple[str, int]]:
        """How the connection ended, as the server was told."""
        told: list[tuple[str, int]] = []
        for event in self.peer.sent:
            if event["type"] == "websocket.close":
                told.append(("close", event["code"]))
            elif "status" in event:
                told.append(("status", event["status"]))
        return told

    def happen(self, event: Event) -> None:
        match event:
            case Event.MESSAGE:
                self.peer.say('"m"')
            case Event.CLIENT_LEFT:
                self.peer.leave(code=4002)
            case Event.CLOSED:
                self.handler._connection.close(4003)
            case Event.RESTART:
                close_for_restart(self.life)
            case Event.CANCELLED:
                self.peer.task.cancel()
            case _:
                self.life.handle(event)

    async def end(self) -> None:
        """Let all that waits go on, and the client leave; then nothing may be left."""
        for go_on in waiting_in_middleware:
            go_on.set()
        waiting_in_middleware.clear()
        if isinstance(self.handler, Waits):
            self.handler.go_on.set()
        await turns()
        self.peer.leave(code=4002)
        await asyncio.wait([self.peer.task], timeout=20)
        assert self.peer.task.done()
        assert not hub_of("default").topics.members_of(TOPIC)
        assert self.handler._life is None
        assert self.handler.tasks == {}
        if isinstance(self.handler, Waits):
            called = self.handler.called
            assert called.count("on_close") == called.count("on_open") <= 1, called
        assert len(self.told) <= 1
        left = asyncio.all_tasks() - self.before - {asyncio.current_task()}
        assert not left, left


def code_of(event: Event, phase: Phase) -> int | None:
    """The close code by which an event ends a connection; None where it tells nobody anything."""
    match event:
        case Event.LOGIN_ENDED:
            return 4401
        case Event.RESTART | Event.CUT_OFF:
            return 1012
        case Event.CANCELLED:
            return 1001
        case Event.CLOSED:
            return 4003
        case Event.RETURNED:
            return 4403 if phase is Phase.HANDSHAKE else 1011
        case Event.TIMED_OUT:
            return {Phase.FIRST_MESSAGE: 4401, Phase.OPENING: 1012, Phase.OPEN: 1012}.get(
                phase, 4503
            )
        case _:
            return None


STATUS = {4401: 401, 1012: 503, 1001: 403, 4003: 403, 4403: 403, 4503: 503, 1011: 403}
ENDS = {
    Reaction.CLOSE, Reaction.CLOSE_AFTER_HOOK, Reaction.CLOSE_AND_CANCEL, Reaction.LET_FINISH,
    Reaction.STOP, Reaction.LEAVE_TOPICS,
}  # fmt: skip


def told_by(event: Event, phase: Phase) -> list[tuple[str, int]]:
    """What the server is told when this event is the first to end a connection."""
    reaction = TABLE[event][phase]
    if reaction is Reaction.LOG_IN:  # nobody is logged in by it
        return [("close", 4401)]
    if reaction not in ENDS or phase not in UNANSWERED | WAS_ACCEPTED:
        return []
    code = code_of(event, phase)
    if code is None:  # the client has left: uvicorn wants an answer to each handshake
        return [("close", 1000)] if phase in UNANSWERED else []
    return [("status", STATUS[code])] if phase in UNANSWERED else [("close", code)]


@pytest.mark.parametrize("event", list(Event), ids=lambda event: event.name)
@pytest.mark.parametrize("name", list(SITUATIONS))
async def test_an_event(name: str, event: Event) -> None:
    situation = SITUATIONS[name]
    phase, reaction = situation.phase, TABLE[event][situation.phase]
    async with Run(situation) as run:
        run.happen(event)
        if event is Event.CLIENT_LEFT and phase is not Phase.HANDED_OVER:
            await until(lambda: run.handler.closed)
        await turns()
        if reaction is Reaction.CLOSE_AFTER_HOOK and situation.waits_in:
            assert not run.handler.closed
            assert run.told == []
            run.handler.go_on.set()
            await turns()
        told = told_by(event, phase)
        if reaction is Reaction.LOG_IN and situation.waits_in:
            told = []  # another message is handled already
        assert run.told[run.told_before :] == told
        if reaction in ENDS:
            assert run.handler.closed
        if reaction in (Reaction.CLOSE_AND_CANCEL, Reaction.CANCEL):
            await until(run.peer.task.done)
        if reaction is Reaction.HANDLE:
            assert "on_message" in run.handler.called
        await run.end()


@pytest.mark.parametrize("first", list(Event), ids=lambda event: event.name)
@pytest.mark.parametrize("name", list(SITUATIONS))
async def test_two_events_in_one_turn(name: str, first: Event) -> None:
    situation = SITUATIONS[name]
    for second in Event:
        async with Run(situation) as run:
            run.happen(first)
            run.happen(second)
            await turns()
            if isinstance(run.handler, Waits):
                run.handler.go_on.set()
            await turns()
            told = run.told[run.told_before :]
            possible = [told_by(first, situation.phase), told_by(second, situation.phase), []]
            if situation.phase is Phase.FIRST_MESSAGE:  # which logs nobody in
                possible.append(told_by(Event.MESSAGE, situation.phase))
            assert told in possible, (second, told)
            await run.end()


async def test_a_hook_that_refuses_as_the_client_leaves_gives_the_one_answer() -> None:
    class Handler(Waits):
        async def on_connect(self) -> None:
            await self.hook("on_connect")
            raise Reject(404)

    async with Run(Situation(Phase.CONNECTING, Handler, "on_connect")) as run:
        run.handler.go_on.set()
        run.happen(Event.CLIENT_LEFT)
        await turns()
        assert run.told == [("status", 404)]
        await run.end()
