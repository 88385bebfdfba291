"""The handler as an object: the handshake it sees, its identity, its subprotocol, its end."""

import gc
import logging
import weakref
from typing import Any

import pytest

from django_ws import WebSocketHandler, WebSocketRequest
from tests.support.asgi_peer import Peer, client, the_handler, until
from tests.support.handlers import Quiet


async def test_the_handler_has_request_args_and_kwargs() -> None:
    async with client(Quiet, "ws/<slug:room>/<int:page>/", "/ws/lobby/3/?a=1"):
        handler = the_handler()
        assert isinstance(handler.request, WebSocketRequest)
        assert handler.request.GET["a"] == "1"
        assert (handler.args, handler.kwargs) == ((), {"room": "lobby", "page": 3})


@pytest.mark.parametrize("name", ["request", "send", "id", "tasks", "kwargs", "closed", "on_open"])
async def test_url_kwargs_may_be_called_as_attributes_are(name: str) -> None:
    class Echo(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.send([message, self.kwargs])

    async with client(Echo, f"ws/<str:{name}>/", "/ws/value/") as ws:
        await ws.send(1)
        assert await ws.receive() == [1, {name: "value"}]


async def test_the_id_is_unique() -> None:
    ids: set[str] = set()
    for _ in range(5):
        async with client(Quiet):
            ids.add(the_handler().id)
    assert len(ids) == 5


async def test_the_id_stays_the_same() -> None:
    async with client(Quiet):
        assert the_handler().id == the_handler().id
        assert len(the_handler().id) == 32


async def test_an_unused_id_is_not_made() -> None:
    async with client(Quiet):
        assert not [name for name in vars(the_handler()) if "id" in name.strip("_").split("_")]


# --- subprotocols -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoken", "offered", "selected"),
    [
        ([], [], None),
        ([], ["a"], None),
        (["a"], [], None),
        (["a"], ["b"], None),
        (["a", "b"], ["b", "a"], "a"),
        (["a", "b"], ["c", "b"], "b"),
    ],
    ids=str,
)
async def test_the_first_of_the_handlers_names_that_the_client_offers_is_selected(
    spoken: list[str], offered: list[str], selected: str | None
) -> None:
    class Handler(WebSocketHandler):
        subprotocols = spoken

    async with client(Handler, subprotocols=offered) as ws:
        assert ws.subprotocol == selected
        assert the_handler().subprotocol == selected


async def test_no_subprotocol_is_answered_where_none_is_selected() -> None:
    async with Peer(Quiet, subprotocols=["a"]) as peer:
        assert peer.sent[0] == {"type": "websocket.accept"}


# --- memory -----------------------------------------------------------------------------------


class Busy(WebSocketHandler):
    """Uses everything that could keep it alive."""

    async def on_open(self) -> None:
        self.start_task("loop", self.sleep_loop, args=(self.nothing, 3600))
        self.start_task("done", self.nothing, lambda task: None)

    async def nothing(self) -> None: ...

    async def on_message(self, message: Any) -> None:
        await self.send(message)

    async def on_close(self) -> None:
        self.send("too late")


class Sync(WebSocketHandler):
    def on_open(self) -> None:
        self.send("open")

    def on_message(self, message: Any) -> None:
        self.send(message)

    def on_close(self) -> None: ...


class Closing(WebSocketHandler):
    async def on_open(self) -> None:
        await self.close(4000)


class Refusing(WebSocketHandler):
    async def on_connect(self) -> None:
        await self.reject(403)


class Failing(WebSocketHandler):
    async def on_open(self) -> None:
        raise LookupError("on_open failed")


@pytest.fixture
def no_collector() -> Any:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def one_life(handler_class: type[WebSocketHandler]) -> weakref.ref[WebSocketHandler]:
    async with Peer(handler_class, opens=False) as peer:
        await until(lambda: peer.sent)
        peer.say("1")
        peer.leave()
        await peer.ended()
        return weakref.ref(peer.handler)


@pytest.mark.parametrize("handler_class", [Quiet, Busy, Sync, Closing, Refusing])
async def test_a_handler_dies_at_the_close_without_the_garbage_collector(
    handler_class: type[WebSocketHandler], no_collector: None
) -> None:
    reference = await one_life(handler_class)
    await until(lambda: reference() is None)


async def test_a_handler_that_failed_dies(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "django.ws.request")  # a kept record keeps the traceback
    reference = await one_life(Failing)

    def died() -> bool:
        gc.collect()
        return reference() is None

    await until(died)  # the thread that reported the exception has to let go of it too
