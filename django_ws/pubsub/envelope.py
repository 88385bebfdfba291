"""How a broadcast travels between processes: a versioned envelope around JSON text or bytes.

``1J<excluded id>;<position>\\n<JSON text>``, with ``B`` for raw bytes, ``D`` for the order to
disconnect and ``C`` for the order to check log-ins. The position has room for the place of a
message in its topic's history.
"""

from __future__ import annotations

from typing import Any

from django_ws.codecs import Codec, JSONCodec
from django_ws.exceptions import DecodeError
from django_ws.types import Event

VERSION = b"1"
JSON, BYTES, DISCONNECT, CHECK = b"J", b"B", b"D", b"C"
ORDERS = {DISCONNECT, CHECK}
KINDS = {JSON, BYTES, *ORDERS}
_json = JSONCodec()


def seal(message: Any, exclude: str | None = None) -> bytes:
    """The envelope of a message: bytes as they are, all else as JSON.

    Raises ``EncodeError``, and ``ValueError`` where ``exclude`` cannot be a connection's id: it
    may come from a client, and must not reach beyond its place.
    """
    if isinstance(message, bytes | bytearray | memoryview):
        return _sealed(BYTES, bytes(message), exclude)
    return _sealed(JSON, _json.encode(message).encode(), exclude)


def seal_disconnect(topic: str, code: int, reason: str) -> bytes:
    """The envelope of the order to disconnect the subscribers of a topic."""
    return _sealed(DISCONNECT, _json.encode([topic, code, reason]).encode(), None)


def seal_check(owner: str) -> bytes:
    """The envelope of the order to check the log-ins of an owner's connections."""
    return _sealed(CHECK, _json.encode(owner).encode(), None)


def _sealed(kind: bytes, payload: bytes, exclude: str | None) -> bytes:
    return b"".join((VERSION, kind, _checked(exclude), b";\n", payload))


def _checked(exclude: Any) -> bytes:
    if exclude is None:
        return b""
    if not isinstance(exclude, str) or not exclude.isascii() or {";", "\n"} & {*exclude}:
        raise ValueError(f"exclude={exclude!r:.60}: give the id of a connection (handler.id)")
    return exclude.encode()


def shared(codec: Codec) -> Codec:
    """The same one for all codecs whose output is the same: what they encode can be shared."""
    return _json if type(codec) is JSONCodec else codec


class Broadcast:
    """One broadcast that was received. Encoded once for each codec that its receivers speak."""

    __slots__ = ("_encoded", "exclude", "kind", "payload", "topic")

    def __init__(self, topic: str, data: bytes) -> None:
        """Raises ``DecodeError`` for what another version of this library has published."""
        head, separator, payload = data.partition(b"\n")
        if head[:1] != VERSION or head[1:2] not in KINDS or not separator or not head.isascii():
            raise DecodeError(
                f"a broadcast to {topic!r} in an unknown envelope, of another version of "
                f"django_ws perhaps: {data[:40]!r}"
            )
        self.topic = topic
        self.kind = head[1:2]
        self.payload = payload
        self.exclude = head[2:].partition(b";")[0].decode()
        # By its id, and with the codec: while that lives no other can have the same id.
        self._encoded: dict[int, tuple[Codec, str | bytes]] = {}

    def message(self) -> Any:
        """The message: a new object at each call, since every receiver may change its own."""
        return self.payload if self.kind == BYTES else _json.decode(self.payload)

    def event_for(self, codec: Codec) -> Event:
        """What is sent to a handler with this codec. Raises ``EncodeError``.

        A new event each time, since whatever stands between here and the server may change it.
        """
        data = self.data_for(codec)
        key = "text" if isinstance(data, str) else "bytes"
        return {"type": "websocket.send", key: data}

    def data_for(self, codec: Codec) -> str | bytes:
        """The data of that event. Raises ``EncodeError``."""
        codec = shared(codec)
        try:
            return self._encoded[id(codec)][1]
        except KeyError:
            data = self._encode(codec)
            self._encoded[id(codec)] = codec, data
            return data

    def _encode(self, codec: Codec) -> str | bytes:
        if self.kind == BYTES:
            return self.payload
        if codec is _json:
            return self.payload.decode()
        return codec.encode(self.message())
