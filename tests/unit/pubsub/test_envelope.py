"""How a broadcast travels: what is read, what is not known, and what is the same for all."""

from __future__ import annotations

from typing import Any

import pytest

from django_ws import connection_topic
from django_ws.codecs import MessagePackCodec
from django_ws.exceptions import DecodeError
from django_ws.pubsub.envelope import (
    Broadcast,
    address,
    content,
    put_together,
    seal,
    seal_check,
    seal_disconnect,
)


def read(envelope: bytes) -> Broadcast:
    return Broadcast("room", envelope)


@pytest.mark.parametrize(
    ("envelope", "kind", "message"),
    [
        (seal({"a": 1}), b"J", {"a": 1}),
        (seal(b"\n;\x00"), b"B", b"\n;\x00"),
        (seal_disconnect("room", 4403, "why"), b"D", ["room", 4403, "why"]),
        (seal_check("owner"), b"C", "owner"),
        (b"1J;\n1", b"J", 1),  # with fewer fields in the head
        (b"1J;a place in a history;\n1", b"J", 1),
        (b'1J;;{"new":[1]}\n1', b"J", 1),  # what a later version may add
    ],
)
def test_what_is_read(envelope: bytes, kind: bytes, message: Any) -> None:
    broadcast = read(envelope)
    assert (broadcast.kind, broadcast.message()) == (kind, message)
    assert (broadcast.exclude, broadcast.id, broadcast.to) == (frozenset(), "", "")
    assert broadcast.topic == broadcast.channel == "room"


def test_whom_it_is_for() -> None:
    connection = "0" * 32
    head = address(["a", "b"], ["django_ws.user:é;\n"], broadcast_id="id", to=connection)
    assert head.isascii()
    broadcast = read(put_together(content(1), head))
    assert broadcast.exclude == {"a", "b", "django_ws.user:é;\n"}
    assert broadcast.id == "id"
    assert broadcast.to == connection
    assert broadcast.topic == connection_topic(connection)
    assert broadcast.channel == "room"


@pytest.mark.parametrize(
    "envelope",
    [
        *[
            b"",
            b"1",
            b"1J",
            b"1J;;",
            b"1J;;1",
            b"2J;;\n1",
            b"1X;;\n1",
            b"1J\xff;;\n1",
            b"\n",
            b"hi",
        ],
        *[b"1J;;{\n1", b"1J;;[]\n1", b"1J;;5\n1", b'1J;;{"users":5}\n1', b"1J;;" + b"[" * 50_000],
        b"1J;;" + b"[" * 50_000 + b"\n1",
    ],
    ids=lambda envelope: repr(envelope[:20]),
)
def test_what_is_not_known(envelope: bytes) -> None:
    with pytest.raises(DecodeError, match="in an unknown envelope, of another version"):
        read(envelope)


def test_the_content_is_the_same_whatever_the_address() -> None:
    packed = content({"a": 1})
    plain, addressed = put_together(packed), put_together(packed, address(["a"]))
    assert plain == b'1J;;\n{"a":1}'
    assert addressed == b'1Ja;;\n{"a":1}'
    codec = MessagePackCodec()
    assert read(plain).data_for(codec) == read(addressed).data_for(codec)
