"""Clients that send what they should not, too much of it, or do not read."""

from __future__ import annotations

import json

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.conftest import Start
from tests.support.raw import BINARY, CLOSE, CONTINUATION, TEXT, RawClient, frame
from tests.support.servers import DEFAULT, KINDS
from tests.support.visit import Visit

MIB = 1024 * 1024


def opened(visit: Visit, path: str, *, receive_buffer: int | None = None) -> RawClient:
    client = visit.raw(path, receive_buffer=receive_buffer)
    assert client.status() == 101
    return client


# What cannot be decoded


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "nothing",
        "NaN",
        '{"a": Infinity}',
        '"\\ud800"',  # an escape of a lone surrogate
        "[" * 500_000 + "]" * 500_000,
    ],
    ids=["brace", "empty", "word", "nan", "infinity", "surrogate", "brackets"],
)
def test_what_is_no_json_is_refused_with_1007(visit: Visit, text: str) -> None:
    with visit.connect("echo/") as client:
        client.send(text)
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == visit.kind.code(1007)
    assert visit.closed_once()["code"] == 1007
    visit.wait_for_log("WARNING", "decode")


def test_bytes_that_are_no_utf8_are_refused_by_the_json_codec(visit: Visit) -> None:
    with opened(visit, "echo/") as client:
        client.send_frame(BINARY, b'"\xff"')
        assert client.receive_close() == visit.kind.code(1007)
    assert visit.closed_once()["code"] == 1007


def test_a_text_frame_that_is_no_utf8_ends_the_connection(visit: Visit) -> None:
    with opened(visit, "echo/") as client:
        client.send_frame(TEXT, b'"\xff"')
        client.read_to_end()
    assert visit.closed_once()["code"] in (1002, visit.kind.vanished, 1007)
    if visit.kind.name == "uvicorn-websockets-sansio":
        visit.expect_trouble("UnicodeDecodeError")


def test_a_frame_that_breaks_the_protocol_ends_the_connection(visit: Visit) -> None:
    with opened(visit, "echo/") as client:
        client.send_frame(CONTINUATION, b"of nothing")
        client.read_to_end()
    assert visit.closed_once()["code"] in (1002, visit.kind.vanished)


# Sizes


def test_a_message_of_the_greatest_size_is_taken(visit: Visit) -> None:
    text = json.dumps("x" * (MIB - 2))
    with visit.connect("echo/") as client:
        client.send(text)
        assert client.recv(10) == text


@pytest.mark.parametrize(
    "message",
    ["x" * (MIB + 1), "ä" * (MIB // 2 + 1), b"x" * (MIB + 1), "x" * 10_000_000],
    ids=["text", "two bytes a character", "bytes", "ten megabytes"],
)
def test_a_message_above_the_greatest_size_is_refused_with_1009(
    visit: Visit, message: str | bytes
) -> None:
    with visit.connect("echo/") as client:
        client.send(message)
        with pytest.raises(ConnectionClosed):
            client.recv(10)
        assert client.close_code == visit.kind.code(1009)
    assert visit.closed_once()["code"] == 1009


def test_a_burst_of_tiny_messages_is_handled_to_the_last(visit: Visit) -> None:
    burst(visit, 20_000)


@pytest.mark.heavy
def test_a_hundred_thousand_tiny_messages_in_one_burst(default_visit: Visit) -> None:
    burst(default_visit, 100_000)


def burst(visit: Visit, count: int) -> None:
    with opened(visit, "counts/") as client:
        client.patience(40)
        client.send(frame(TEXT, b"1") * count + frame(TEXT, b'"how many?"'))
        assert client.receive_message() == str(count).encode()
        client.send_frame(CLOSE, b"")
        client.read_to_end()
    visit.closed_once()


# Handshakes


def test_headers_that_are_not_utf8_harm_nothing(visit: Visit) -> None:
    headers = [(b"X-Test", b"caf\xe9 \xff"), (b"Cookie", b"a=\xff; b=2"), (b"User-Agent", b"\xfe")]
    with visit.raw("show/1/name/", headers) as client:
        if visit.kind.takes_any_header:
            assert client.status() == 101
            shown = json.loads(client.receive_message())
            assert shown["header"] == "caf\xe9 \xff"
            assert shown["cookies"]["b"] == "2"
        else:
            assert client.status() == 500
            visit.expect_trouble("UnicodeEncodeError")


def test_a_query_that_is_not_utf8_harms_nothing(visit: Visit) -> None:
    with opened(visit, "show/1/name/?q=%ff%fe&%80=1&b=2") as client:
        assert json.loads(client.receive_message())["query"]["b"] == "2"


def test_a_path_that_is_not_utf8_harms_nothing(visit: Visit) -> None:
    with opened(visit, "word/%ff%fe/") as client:
        assert json.loads(client.receive_message())["kwargs"]["word"] == "\ufffd\ufffd"


def test_an_origin_that_is_not_ascii_is_refused(visit: Visit) -> None:
    with visit.raw("echo/", [(b"Origin", b"http://caf\xe9.example\xff")]) as client:
        if visit.kind.takes_any_header:
            assert client.status() == 403
            visit.wait_for_log("WARNING", "may not open sockets")
        else:
            assert client.status() == 500
            visit.expect_trouble("UnicodeEncodeError")


# Clients that do not read (servers that never wait in send cannot bound what they keep)


def test_a_client_that_does_not_read_is_closed_with_1013(visit: Visit) -> None:
    count = 100_000 if visit.kind.has_backpressure else 10
    with opened(visit, "floods/close/", receive_buffer=4096) as client:
        client.send_frame(TEXT, str(count).encode())
        flooded = visit.wait_for("flooded")
        if visit.kind.has_backpressure:
            assert flooded["sent"] < count
            assert visit.wait_for("closed")["code"] == 1013
            assert "WS_SEND_BUFFER" in visit.wait_for_log("WARNING", "reads too slowly")
        else:
            assert flooded["dropped"] == 0


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
def test_messages_are_dropped_for_a_client_that_reads_too_late(
    default_visit: Visit, policy: str
) -> None:
    visit, count = default_visit, 2000
    with opened(visit, f"floods/{policy}/", receive_buffer=4096) as client:
        client.send_frame(TEXT, str(count).encode())
        flooded = visit.wait_for("flooded")
        assert flooded["sent"] == count
        received = []
        while (message := json.loads(client.receive_message())) != "that is all":
            received.append(message[0])
        dropped = visit.wait_for("drained")["dropped"]
    assert 0 < dropped == count - len(received)
    assert received == sorted(received)
    assert received[0] == 0  # it was half sent when the others were dropped
    assert (received[-1] == count - 1) is (policy == "drop-oldest")
    assert len(visit.log("WARNING")) == 1


def test_other_clients_do_not_feel_one_that_does_not_read(default_visit: Visit) -> None:
    visit = default_visit
    with opened(visit, "blocks-in-send/", receive_buffer=4096) as stuck:
        stuck.send_frame(TEXT, b"1")
        visit.wait_for("blocked")
        with visit.connect("echo/") as client:
            for number in range(100):
                client.send(str(number))
                assert client.recv(1) == str(number)
        stuck.reset()


def test_the_memory_for_a_client_that_does_not_read_is_bounded(start: Start) -> None:
    server = start(KINDS[DEFAULT])
    visit = Visit(server)
    with visit.connect("memory/") as memory:

        def peak() -> int:
            memory.send("1")
            numbers = json.loads(memory.recv(5))
            return int(numbers["peak"])

        with opened(visit, "floods/drop-newest/", receive_buffer=4096) as client:
            client.send_frame(TEXT, b"1000")
            visit.wait_for("flooded")
            before = peak()
            client.reset()
        with opened(visit, "floods/drop-newest/", receive_buffer=4096) as client:
            client.send_frame(TEXT, b"10000")  # 160 MB
            visit.wait_for("flooded", 2)
            assert peak() - before < 16 * MIB
            client.reset()
    visit.check()
