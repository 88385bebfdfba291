"""The format of a broadcast between processes: a versioned envelope around JSON or bytes.

``1J<excluded ids>;<position>;<more>\\n<JSON text>``, with ``B`` for raw bytes, ``D`` for the order
to disconnect and ``C`` for the order to check log-ins. The position has room for the place of a
message in its topic's history. ``more`` is empty, or JSON in ASCII for what few broadcasts need.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from django_ws.codecs import Codec, JSONCodec
from django_ws.exceptions import DecodeError
from django_ws.pubsub.topics import CONNECTION_PREFIX, ConnectionTopic
from django_ws.types import Event

VERSION = b"1"
JSON, BYTES, DISCONNECT, CHECK = b"J", b"B", b"D", b"C"
ORDERS = {DISCONNECT, CHECK}
KINDS = {JSON, BYTES, *ORDERS}
_SIMPLE = {VERSION + kind + b";;": kind for kind in KINDS}  # the head of nearly all broadcasts
_RESERVED = {",", ";", "\n"}
_json = JSONCodec()


def content(message: Any) -> bytes:
    """What stays the same of a message's envelope, whatever it is addressed with.

    Bytes as they are, all else as JSON. Raises ``EncodeError``.
    """
    if isinstance(message, bytes | bytearray | memoryview):
        return BYTES + bytes(message)
    return JSON + _json.encode(message).encode()


def disconnection(topic: str, code: int, reason: str) -> bytes:
    """The content of the order to disconnect the subscribers of a topic."""
    return DISCONNECT + _json.encode([topic, code, reason]).encode()


def address(
    exclude: Sequence[str] = (),
    users: Sequence[str] = (),
    *,
    broadcast_id: str = "",
    to: str = "",
) -> bytes:
    """Who shall get it, of the topic's subscribers: not the connections with these ids (of
    ``connection_ids``), and not those of these users (their topics).

    ``broadcast_id`` is the same for all copies of a broadcast to several topics; ``to`` is the
    id of the one connection that it is for.
    """
    named = {"users": list(users), "id": broadcast_id, "to": to}
    more = {name: value for name, value in named.items() if value}
    text = json.dumps(more, separators=(",", ":")) if more else ""
    return f"{','.join(exclude)};;{text}\n".encode()


PLAIN = address()


def put_together(content: bytes, address: bytes = PLAIN) -> bytes:
    """The envelope."""
    return b"".join((VERSION, content[:1], address, content[1:]))


def seal(message: Any, exclude: str | Iterable[str] | None = None) -> bytes:
    """The envelope of a message to one topic. Raises ``EncodeError`` and ``ValueError``."""
    return put_together(content(message), address(connection_ids(exclude)))


def seal_disconnect(topic: str, code: int, reason: str) -> bytes:
    """The envelope of the order to disconnect the subscribers of a topic."""
    return put_together(disconnection(topic, code, reason))


def seal_check(identity: str) -> bytes:
    """The envelope of the order to check the log-ins of an identity's connections."""
    return put_together(CHECK + _json.encode(identity).encode())


def connection_ids(exclude: Any) -> list[str]:
    """The ids that the argument ``exclude`` names: None, one, or several.

    Raises ``ValueError`` for what cannot be one: it may come from a client, and must not reach
    beyond its place in the envelope.
    """
    if exclude is None:
        return []
    several = not isinstance(exclude, str | bytes) and isinstance(exclude, Iterable)
    ids = list(exclude) if several else [exclude]
    for each in ids:
        if not isinstance(each, str) or not each.isascii() or _RESERVED & {*each}:
            raise ValueError(f"exclude={each!r:.60}: give the id of a connection (handler.id)")
    return ids


def shared(codec: Codec) -> Codec:
    """The same one for all codecs whose output is the same: what they encode can be shared."""
    return _json if type(codec) is JSONCodec else codec


class Broadcast:
    """One broadcast that was received. Encoded once for each codec that its receivers speak.

    ``exclude`` has the names of the connections, by id or identity, that shall not get it. ``id``
    is empty unless it went to several topics, and ``to`` unless it is for one connection: then
    ``topic`` is that connection's own, and ``channel`` the one that the hub listens to.
    """

    __slots__ = ("_encoded", "channel", "exclude", "id", "kind", "payload", "to", "topic")

    def __init__(self, topic: str, data: bytes) -> None:
        """Raises ``DecodeError`` for what another version of this library has published."""
        head, separator, self.payload = data.partition(b"\n")
        self.topic = self.channel = topic
        self.exclude: frozenset[str] = _NOBODY
        self.id = self.to = ""
        kind = _SIMPLE.get(head)
        if kind is None:
            kind = head[1:2]
            if head[:1] != VERSION or kind not in KINDS or not head.isascii():
                raise _unknown(topic, data)
            self._read(topic, head, data)
        if not separator:
            raise _unknown(topic, data)
        self.kind = kind
        # By its id, and with the codec: while that lives no other can have the same id.
        self._encoded: dict[int, tuple[Codec, str | bytes | Exception]] = {}

    def _read(self, topic: str, head: bytes, data: bytes) -> None:
        """The rest of the head."""
        exclude, _, rest = head[2:].decode().partition(";")
        _, _, text = rest.partition(";")
        names = exclude.split(",") if exclude else []
        self.exclude = frozenset(names)
        if text:
            try:
                more = json.loads(text)
                names += map(str, more.get("users", ()))
                self.id = str(more.get("id", ""))
                self.to = str(more.get("to", ""))
                self.exclude = frozenset(names)
            except (AttributeError, RecursionError, TypeError, ValueError) as error:
                raise _unknown(topic, data) from error
            if self.to:
                self.topic = ConnectionTopic(CONNECTION_PREFIX + self.to)

    def message(self) -> Any:
        """The message: a new object at each call, since every receiver may change its own."""
        return self.payload if self.kind == BYTES else _json.decode(self.payload)

    def event_for(self, codec: Codec) -> Event:
        """What is sent to a handler with this codec. Raises what the codec has raised.

        A new event each time, since whatever stands between here and the server may change it.
        """
        data = self.data_for(codec)
        key = "text" if isinstance(data, str) else "bytes"
        return {"type": "websocket.send", key: data}

    def data_for(self, codec: Codec) -> str | bytes:
        """The data of that event. A codec is asked once, also where it cannot encode this."""
        codec = shared(codec)
        known = self._encoded.get(id(codec))
        if known is None:
            known = self._encoded[id(codec)] = codec, self._encode(codec)
        if isinstance(known[1], Exception):
            raise known[1].with_traceback(None)  # many are told of it
        return known[1]

    def _encode(self, codec: Codec) -> str | bytes | Exception:
        if self.kind == BYTES:
            return self.payload
        try:
            return self.payload.decode() if codec is _json else codec.encode(self.message())
        except Exception as error:  # of a codec of the user's, perhaps
            return error.with_traceback(None)  # whose frames would be kept


_NOBODY: frozenset[str] = frozenset()


def _unknown(topic: str, data: bytes) -> DecodeError:
    return DecodeError(
        f"a broadcast to {topic!r} in an unknown envelope, of another version of django_ws "
        f"perhaps: {data[:40]!r}"
    )
