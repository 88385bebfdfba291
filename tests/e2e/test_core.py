"""What every server must show a client: messages, arguments, refusals, closes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.visit import Visit

# Messages


@pytest.mark.parametrize("message", [{"text": "hi"}, [1, 2.5, None, True], "grüße", 0, {}])
def test_a_json_message_is_echoed(visit: Visit, message: Any) -> None:
    with visit.connect("echo/") as client:
        client.send(json.dumps(message))
        assert json.loads(client.recv(5)) == message


def test_json_in_a_binary_frame_is_decoded_too(visit: Visit) -> None:
    with visit.connect("echo/") as client:
        client.send(b'{"a": 1}')
        assert json.loads(client.recv(5)) == {"a": 1}


def test_text_is_echoed_unchanged(visit: Visit) -> None:
    with visit.connect("echo/text/") as client:
        client.send("grüße \U0001f600 \x00")
        assert client.recv(5) == "grüße \U0001f600 \x00"


def test_bytes_are_echoed_unchanged(visit: Visit) -> None:
    with visit.connect("echo/bytes/") as client:
        client.send(bytes(range(256)))
        assert client.recv(5) == bytes(range(256))


def test_text_frames_and_binary_frames_can_mean_different_things(visit: Visit) -> None:
    with visit.connect("echo/mixed/") as client:
        client.send(b"\xff raw")
        assert client.recv(5) == b"\xff raw"
        client.send('"json"')
        assert client.recv(5) == '"json"'


def test_messages_keep_their_order(visit: Visit) -> None:
    with visit.connect("echo/") as client:
        for number in range(1000):
            client.send(str(number))
        assert [json.loads(client.recv(5)) for _ in range(1000)] == list(range(1000))


def test_messages_whose_send_is_not_awaited_keep_their_order(visit: Visit) -> None:
    with visit.connect("echo/unawaited/") as client:
        for number in range(1000):
            client.send(str(number))
        assert [json.loads(client.recv(5)) for _ in range(1000)] == list(range(1000))


def test_a_message_may_come_in_fragments(visit: Visit) -> None:
    with visit.connect("echo/") as client:
        client.send(['{"a":', " [1,", " 2]}"])
        assert json.loads(client.recv(5)) == {"a": [1, 2]}


def test_sync_hooks_answer_like_async_ones(visit: Visit) -> None:
    with visit.connect("echo/sync/") as client:
        assert client.recv(5) == '"open"'
        for number in range(20):
            client.send(str(number))
        assert [json.loads(client.recv(5)) for _ in range(20)] == list(range(20))
    visit.wait_for("on_connect")
    assert len(visit.ended()) == 1


def test_a_handler_without_hooks_takes_messages_and_closes(visit: Visit) -> None:
    with visit.connect("without-hooks/") as client:
        client.send("1")
        client.close(1000)
        assert client.close_code == 1000


def test_compressed_messages_are_echoed(visit: Visit) -> None:
    with visit.connect("echo/", compression="deflate") as client:
        client.send(json.dumps("x" * 100_000))
        assert json.loads(client.recv(5)) == "x" * 100_000


# The handshake


def test_the_first_offered_subprotocol_of_the_handler_is_answered(visit: Visit) -> None:
    with visit.connect("subprotocols/", subprotocols=["other", "v1.chat", "v2.chat"]) as client:
        assert client.subprotocol == "v2.chat"
        assert json.loads(client.recv(5)) == {"subprotocol": "v2.chat"}


def test_no_subprotocol_is_answered_where_none_fits(visit: Visit) -> None:
    with visit.connect("subprotocols/") as client:
        assert client.subprotocol is None
        assert json.loads(client.recv(5)) == {"subprotocol": None}


def test_the_handler_sees_the_handshake(visit: Visit) -> None:
    headers = {"X-Test": "yes", "Cookie": "a=1; b=2"}
    with visit.connect("show/7/lobby/?q=a%20b&x=%C3%A4", additional_headers=headers) as client:
        shown = json.loads(client.recv(5))
    assert shown == {
        "args": [],
        "kwargs": {"key": visit.key, "number": 7, "name": "lobby"},
        "path": visit.path("show/7/lobby/"),
        "query": {"q": "a b", "x": "ä"},
        "cookies": {"a": "1", "b": "2"},
        "header": "yes",
        "host": f"127.0.0.1:{visit.server.port}",
        "user": "AnonymousUser",
    }


def test_a_missing_trailing_slash_is_no_obstacle(visit: Visit) -> None:
    with visit.connect("echo") as client:
        client.send("1")
        assert client.recv(5) == "1"


def test_url_arguments_named_like_attributes_shadow_nothing(visit: Visit) -> None:
    with visit.connect("collide/a/b/c/d/e/f/") as client:
        kwargs = json.loads(client.recv(5))["kwargs"]
    assert kwargs == {
        "key": visit.key,
        "request": "a",
        "send": "b",
        "args": "c",
        "kwargs": "d",
        "close": "e",
        "id": "f",
    }


def test_a_path_is_percent_decoded(visit: Visit) -> None:
    with visit.connect("word/caf%C3%A9%20%F0%9F%98%80/") as client:
        assert json.loads(client.recv(5))["kwargs"]["word"] == "café \U0001f600"


def test_the_sites_own_origin_may_connect(visit: Visit) -> None:
    with visit.connect("echo/", origin=f"http://127.0.0.1:{visit.server.port}") as client:
        client.send("1")
        assert client.recv(5) == "1"


# Refusals


def test_a_foreign_origin_is_refused(visit: Visit) -> None:
    assert visit.refused("echo/", origin="https://evil.example").status_code == 403
    visit.wait_for_log("WARNING", "https://evil.example")
    assert not visit.events("began")


def test_a_bad_host_is_refused(visit: Visit) -> None:
    with visit.raw("echo/", host=b"evil.example") as client:
        assert client.status() == visit.kind.status(400)


def test_an_unknown_path_is_refused(visit: Visit) -> None:
    assert visit.refused("nowhere/").status_code == visit.kind.status(404)
    assert visit.path("nowhere/") in visit.wait_for_log("INFO", "no route")


@pytest.mark.parametrize("way", ["reject", "unawaited", "raise"])
@pytest.mark.parametrize("status", [401, 429])
def test_on_connect_can_refuse_with_a_status(visit: Visit, way: str, status: int) -> None:
    response = visit.refused(f"refuse/{way}/{status}/")
    assert response.status_code == visit.kind.status(status)
    if visit.kind.gives_status:
        assert response.body == b"no entry"
        assert response.headers.get("X-Why") == ("because" if way == "raise" else None)
    assert visit.ended() == []
    assert not visit.events("opened")


@pytest.mark.parametrize(("way", "status"), [("denied", 403), ("missing", 404), ("close", 403)])
def test_djangos_exceptions_and_close_refuse_too(visit: Visit, way: str, status: int) -> None:
    assert visit.refused(f"refuse/{way}/0/").status_code == visit.kind.status(status)
    visit.wait_for("began")
    assert visit.ended() == []


def test_a_sync_on_connect_can_refuse(visit: Visit) -> None:
    assert visit.refused("refuse-sync/401/").status_code == visit.kind.status(401)
    assert visit.ended() == []


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_refusal_can_be_readable_for_browsers(visit: Visit, status: int) -> None:
    with visit.connect(f"refuse-readably/raise/{status}/") as client:
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == 4000 + status
        assert client.close_reason == ("no entry" if visit.kind.gives_reason else "")
    assert visit.ended() == []
    assert not visit.events("opened")


def test_a_foreign_origin_is_never_let_in_to_read_its_refusal(visit: Visit) -> None:
    response = visit.refused("refuse-readably/raise/401/", origin="https://evil.example")
    assert response.status_code == 403


def test_an_on_connect_that_never_ends_is_refused(visit: Visit) -> None:
    assert visit.refused("never-connects/").status_code == visit.kind.status(503)
    visit.wait_for_log("WARNING", "WS_CONNECT_TIMEOUT")
    assert visit.ended() == []


# Closes


def test_the_server_closes_with_code_and_reason(visit: Visit) -> None:
    with visit.connect("closes/") as client:
        client.send(json.dumps({"code": 4321, "reason": "grüße"}))
        assert client.recv(5) == '"before the close"'
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == 4321
        assert client.close_reason == ("grüße" if visit.kind.gives_reason else "")
    closed = visit.closed_once()
    assert (closed["code"], closed["reason"]) == (4321, "grüße")


def test_a_close_in_on_open_comes_before_any_message(visit: Visit) -> None:
    with visit.connect("closes/in-on-open/") as client:
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == 4000
    assert visit.closed_once()["code"] == 4000
    assert not visit.events("message")


def test_a_task_can_close(visit: Visit) -> None:
    with visit.connect("closes/from-task/") as client:
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == 4001
    assert visit.closed_once()["code"] == 4001


def test_on_close_sees_the_clients_code_and_reason(visit: Visit) -> None:
    with visit.connect("echo/") as client:
        client.close(4123, "bye")
    closed = visit.closed_once()
    assert closed["code"] == (4123 if visit.kind.tells_client_code else 1006)
    assert closed["reason"] == ("bye" if visit.kind.tells_client_reason else "")


def test_a_close_without_a_code_is_1005(visit: Visit) -> None:
    with visit.raw("echo/") as client:
        assert client.status() == 101
        client.send_frame(8, b"")
        client.read_to_end()
    assert visit.closed_once()["code"] == (1005 if visit.kind.tells_client_code else 1006)


# Exceptions


@pytest.mark.parametrize("hook", ["on_open", "on_message", "on_bytes"])
def test_an_exception_in_a_hook_closes_with_1011(visit: Visit, hook: str) -> None:
    with visit.connect(f"raises/{hook}/") as client:
        if hook != "on_open":
            client.send("1" if hook == "on_message" else b"1")
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == visit.kind.code(1011)
        assert client.close_reason == ""
    assert visit.closed_once()["code"] == 1011
    assert len(visit.events("on_error")) == 1
    visit.expect_errors(f"exception in {hook}")


def test_an_exception_in_on_connect_refuses_with_500(visit: Visit) -> None:
    assert visit.refused("raises/on_connect/").status_code == visit.kind.status(500)
    visit.wait_for("on_error")
    assert visit.ended() == []
    assert len(visit.events("on_error")) == 1
    visit.expect_errors("exception in on_connect")


def test_an_exception_in_on_error_changes_nothing(visit: Visit) -> None:
    with visit.connect("raises/on_message+on_error/") as client:
        client.send("1")
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == visit.kind.code(1011)
    assert visit.closed_once()["code"] == 1011
    visit.expect_errors("exception in on_message", "exception in on_error")


def test_an_exception_in_on_close_is_told(visit: Visit) -> None:
    with visit.connect("raises/on_close/") as client:
        client.close(1000)
    visit.closed_once()
    visit.expect_errors("exception in on_close")


def test_an_exception_in_a_middleware_before_the_handler_refuses_with_500(visit: Visit) -> None:
    response = visit.refused("echo/?raise=before")
    assert response.status_code == visit.kind.status(500)
    assert visit.ended() == []
    visit.expect_errors("exception in the middleware")


def test_an_exception_in_a_middleware_after_the_handler_is_told(visit: Visit) -> None:
    with visit.connect("echo/?raise=after") as client:
        client.send("1")
        assert client.recv(5) == "1"
        client.close(1000)
    visit.closed_once()
    visit.expect_errors("exception in the middleware")


def test_acting_in_on_close_fails_in_order(visit: Visit) -> None:
    with visit.connect("acts-in-on-close/") as client:
        client.close(1000)
    closed = visit.closed_once()
    assert visit.wait_for("send")["code"] == closed["code"]
    visit.wait_for("start_task")
    assert visit.wait_for("closed again")["code"] == closed["code"]
