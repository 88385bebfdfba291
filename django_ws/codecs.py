"""JSON, MessagePack, text, bytes: a codec turns messages into data and back."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import compress
from typing import Any, Protocol
from uuid import UUID

import msgspec
from django.utils.functional import LazyObject, Promise

from django_ws.exceptions import DecodeError, EncodeError

__all__ = ["BytesCodec", "Codec", "JSONCodec", "MessagePackCodec", "TextCodec"]

# How far a message that is nested too deeply is searched for a value that contains itself.
_MAX_SEARCH_DEPTH = 100
_MAX_KEY_IN_PATH = 60

# What is decoded is nested less deeply than what can be encoded: it may be sent on, within more.
_MAX_DEPTH = 500
_TOO_DEEP = "nested too deeply"
_CONTAINER_MARKS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])  # of MessagePack

# MessagePack containers above this many bytes are decoded level by level.
_LARGE_CONTAINER = 8 * 1024
_MAX_LARGE_LEVELS = 32


class Codec(Protocol):
    """What ``WebSocketHandler.codec`` may be.

    One object serves all connections of a handler class, in every thread at the same time,
    so a codec keeps no state between calls. The codecs of this module have none.
    """

    def encode(self, message: Any, /) -> str | bytes:
        """Return ``str`` to send a text frame, ``bytes`` to send a binary frame.

        Raises ``EncodeError``, and nothing else, for a message that it cannot encode.
        """
        ...

    def decode(self, data: str | bytes, /) -> Any:
        """Decode the payload of a text frame (``str``) or of a binary frame (``bytes``).

        Raises ``DecodeError``, and nothing else, for any data that a client may send.
        """
        ...


class JSONCodec:
    """JSON: sent in text frames, read from text and binary frames.

    Beside the plain types it encodes datetime, date, time (RFC 3339; aware UTC ends in ``Z``),
    timedelta (ISO 8601, read by ``django.utils.dateparse.parse_duration``), Decimal and UUID
    (as text), lazy strings, dataclasses, enums and model choices (by value), sets and tuples
    (as arrays). NaN and infinities of ``float`` become ``null``.
    Keys may be text, lazy text, numbers, ``None`` and ``bool`` (``"null"``, ``"true"``), dates
    and UUIDs: all become text. Integers may be of any size up to 4,300 digits, though
    JavaScript rounds those beyond 2**53.

    Refused with ``EncodeError``: bytes, model instances, querysets, iterators, text with lone
    surrogates, values that contain themselves or are nested about as deep as Python's
    recursion limit. Subclasses of ``list`` and ``dict`` are read as they are stored, past
    their own methods: send ``form.errors.get_json_data()``, since ``form.errors`` keeps its
    lists elsewhere and would arrive empty.

    Decoding is strict: NaN, numbers out of range, lone surrogates, invalid UTF-8 and more than
    500 levels raise ``DecodeError``; of duplicate keys the last wins. Safe to share between
    threads.
    """

    # Hot: a try that succeeds is free, so this is msgspec plus two calls.
    def encode(self, message: Any) -> str:
        try:
            text = _json_encode(message).decode()
        except Exception as error:
            raise _encode_error(_json_encode, message, error) from error
        if type(message) is not str:
            _refuse_bytes(message)
        return text

    def decode(self, data: str | bytes) -> Any:
        try:
            message = _json_decode(data)
        except (ValueError, RecursionError) as error:
            raise _decode_error(error) from error
        if len(data) > 2 * _MAX_DEPTH:
            marks = ("[", "{") if isinstance(data, str) else (b"[", b"{")
            if sum(map(data.count, marks)) > _MAX_DEPTH:  # type: ignore[arg-type]
                _refuse_depth(message)
        return message


class MessagePackCodec:
    """MessagePack: sent in binary frames, read from binary frames alone.

    Takes the types of ``JSONCodec``, with these differences. An aware datetime travels as the
    timestamp extension and is decoded to a UTC datetime; a naive one, and all else that
    MessagePack has no type for, travels as the text that ``JSONCodec`` writes. bytes, NaN,
    infinities and keys that are not text stay what they are. Integers must fit 64 bits. Other
    extensions are decoded to ``msgspec.msgpack.Ext``, and may be sent as that.

    More than 500 levels raise ``DecodeError``.
    Maps of more than 8 KiB may only have text, numbers, bool and None as keys when decoded,
    and must not be below 32 more containers of that size. In smaller maps bytes, timestamps
    and arrays (as tuples) are keys too. Safe to share between threads.
    """

    def encode(self, message: Any) -> bytes:
        try:
            return _msgpack_encode(message)
        except Exception as error:
            raise _encode_error(_msgpack_encode, message, error) from error

    def decode(self, data: str | bytes) -> Any:
        if isinstance(data, str):
            raise DecodeError("a text frame, but MessagePack travels in binary frames")
        try:
            decode = _decode_large if len(data) > _LARGE_CONTAINER else _msgpack_decode
            message = decode(data)
        except (ValueError, RecursionError) as error:
            raise _decode_error(error) from error
        if len(data) > _MAX_DEPTH:
            plain = data.translate(None, _CONTAINER_MARKS)
            if len(data) - len(plain) > _MAX_DEPTH:
                _refuse_depth(message)
        return message


class TextCodec:
    """Text as it is: the message is the ``str`` of a text frame. Safe to share between threads."""

    def encode(self, message: Any) -> str:
        if type(message) is str and message.isascii():  # which reads a flag: nothing is scanned
            return message
        if not issubclass(type(message), str):
            raise EncodeError("$", f"{_name(message)}, but TextCodec sends str alone: use str(...)")
        text: str = message
        try:
            return text.encode().decode()
        except UnicodeEncodeError as error:
            raise EncodeError("$", _reason(text, error)) from error

    def decode(self, data: str | bytes) -> str:
        if isinstance(data, str):
            return data
        raise DecodeError("a binary frame, but TextCodec reads text frames alone")


class BytesCodec:
    """Bytes as they are: the message is the payload of a binary frame.

    Sends any bytes-like object (bytearray and memoryview are copied at the call), receives
    ``bytes``. Safe to share between threads.
    """

    def encode(self, message: Any) -> bytes:
        if type(message) is bytes:
            return message
        try:
            return bytes(memoryview(message))
        except (TypeError, ValueError) as error:  # ValueError: a memoryview that was released
            cure = ".encode()" if issubclass(type(message), str) else "bytes(...)"
            reason = f"{_name(message)}, but BytesCodec sends bytes-like objects alone: use {cure}"
            raise EncodeError("$", reason) from error

    def decode(self, data: str | bytes) -> bytes:
        if isinstance(data, str):
            raise DecodeError("a text frame, but BytesCodec reads binary frames alone")
        return data


def _encode_hook(value: Any) -> Any:
    """Turn a value that msgspec does not know into one that it does.

    Looks at the type alone: ``isinstance`` would evaluate ``request.user``, a query.
    """
    kind = type(value)
    if issubclass(kind, Promise):
        return str(value)
    # The methods of the base class return it exactly: str(SafeString) is a SafeString again.
    if issubclass(kind, str):
        return str.__str__(value)
    if value is None or kind is bool:  # only asked for JSON keys
        return json.dumps(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    raise TypeError(f"{_name(value)} cannot be encoded: {_cure(kind)}")


def _refuse_bytes(message: Any) -> None:
    """msgspec, which has no switch for it, writes bytes as base64: no receiver could tell it
    from text.
    """
    if type(message) is dict:  # most are flat
        for key, value in message.items():
            if type(value) not in _LEAVES or type(key) is bytes:
                break
        else:
            return
    if _has_bytes(message):
        raise EncodeError(_path_to_bytes(message), _NO_BYTES)


def _has_bytes(message: Any) -> bool:
    """Level by level, and in C: a visit to each value in Python takes several times as long."""
    level: list[Any] = [[message]]
    while True:
        below = gc.get_referents(*level)  # all keys and values, of containers as plain as these
        kinds = [*map(type, below)]
        found = {*kinds}
        if found <= _LEAVES:
            return False
        if not found.isdisjoint(_BYTES):
            return True
        level = [*compress(below, map(_CONTAINERS.__contains__, kinds))]
        if others := found - _LEAVES - _CONTAINERS:
            for value in below:
                if type(value) in others:
                    level.append([child for _, child, _ in _children(value)])


def _path_to_bytes(value: Any) -> str:
    """Where the first of them is. There must be one."""
    path = "$"
    while type(value) not in _BYTES:
        step, value = next(
            (step, child) for step, child, _ in _children(value) if _has_bytes(child)
        )
        path += step
    return path


_LEAVES = frozenset(
    {str, int, float, bool, type(None), datetime, date, time, timedelta, Decimal, UUID}
)
_BYTES = frozenset({bytes, bytearray, memoryview})
_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})
_NO_BYTES = (
    "bytes, which JSON has not: send base64.b64encode(value).decode(), or bytes alone as the "
    "message (send_bytes(), broadcast()). With MessagePackCodec send() takes them, too"
)

_json_encode = msgspec.json.Encoder(enc_hook=_encode_hook).encode
_json_decode = msgspec.json.Decoder().decode
_msgpack_encode = msgspec.msgpack.Encoder(enc_hook=_encode_hook).encode
_msgpack_decode = msgspec.msgpack.Decoder().decode
_msgpack_decode_array = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_msgpack_decode_map = msgspec.msgpack.Decoder(
    dict[str | int | float | bool | None, msgspec.Raw]
).decode


def _decode_large(data: Any, level: int = 0) -> Any:
    """Decode more than 8 KiB of MessagePack, whose large maps have no arrays as keys.

    The hash of an array of integers is not random, so a client can choose thousands of keys
    with one hash: a map of them in 1 MiB would take many seconds to build.
    """
    if level == _MAX_LARGE_LEVELS:
        raise RecursionError  # each level reads all that is below it once more
    first = memoryview(data)[0]
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        parts = _msgpack_decode_map(data)
        if _is_any_large(parts.values()):
            return {key: _decode_part(part, level + 1) for key, part in parts.items()}
    elif 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
        items = _msgpack_decode_array(data)
        if _is_any_large(items):
            return [_decode_part(part, level + 1) for part in items]
    return _msgpack_decode(data)  # at once: a million small parts one by one take twice as long


def _is_any_large(parts: Collection[msgspec.Raw]) -> bool:
    return max([len(memoryview(part)) for part in parts], default=0) > _LARGE_CONTAINER


def _decode_part(part: msgspec.Raw, level: int) -> Any:
    if len(memoryview(part)) > _LARGE_CONTAINER:
        return _decode_large(part, level)
    return _msgpack_decode(part)


def _refuse_depth(message: Any) -> None:
    """Level by level, and in C."""
    level: list[Any] = [message]
    for _ in range(_MAX_DEPTH):
        below = gc.get_referents(*level)
        level = [*compress(below, map(_CONTAINERS.__contains__, map(type, below)))]
        if not level:
            return
    raise DecodeError(_TOO_DEEP)


def _decode_error(error: Exception) -> DecodeError:
    if isinstance(error, RecursionError):
        return DecodeError(_TOO_DEEP)
    if isinstance(error, UnicodeError):
        return DecodeError("not valid UTF-8")
    return DecodeError(str(error))


def _encode_error(encode: Callable[[Any], bytes], message: Any, error: Exception) -> EncodeError:
    """Walk down to the value that cannot be encoded: slow, but only done after a failure."""
    path, value = "$", message
    above: dict[int, Any] = {}  # by id; holds the values, so that no id is used twice
    while not isinstance(error, RecursionError) or len(above) < _MAX_SEARCH_DEPTH:
        above[id(value)] = value
        for step, child, is_key in _children(value):
            try:
                encode({child: None} if is_key else child)
            except Exception as child_error:
                path += step
                if is_key:
                    return EncodeError(path, f"as a key: {_reason(child, child_error)}")
                if id(child) in above:
                    return EncodeError(path, f"{_name(child)} contains itself")
                value, error = child, child_error
                break
        else:
            return EncodeError(path, _reason(value, error))
    return EncodeError("$", _reason(message, error))


def _children(value: Any) -> Iterable[tuple[str, Any, bool]]:
    """The values one step below, each with its step of the path and whether it is a key."""
    kind = type(value)
    if issubclass(kind, dict):
        return [
            (f"[{_key_in_path(key)}]", key if is_key else item, is_key)
            for key, item in dict.items(value)
            for is_key in (True, False)
        ]
    if issubclass(kind, (list, tuple, set, frozenset)):
        return [(f"[{index}]", item, False) for index, item in enumerate(kind.__iter__(value))]
    names: Iterable[str] = ()
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif issubclass(kind, msgspec.Struct):
        names = kind.__struct_fields__
    elif issubclass(kind, Enum):
        names = ["value"]
    return [(f".{name}", getattr(value, name, None), False) for name in names]


def _key_in_path(key: Any) -> str:
    if issubclass(type(key), str):
        return json.dumps(key[:_MAX_KEY_IN_PATH])
    return repr(key)[:_MAX_KEY_IN_PATH] if type(key) in (int, float, bool) else _name(key)


def _reason(value: Any, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply, or contains itself"
    if isinstance(error, UnicodeEncodeError):
        return (
            f"the str has a lone surrogate at position {error.start}, which UTF-8 cannot carry: "
            "send value.encode(errors='replace').decode()"
        )
    if type(value) is int:
        return f"{error}: send it as a str"
    if isinstance(error, TypeError):
        return str(error)
    return f"{_name(value)} raised {type(error).__name__}: {error}"


def _name(value: Any) -> str:
    kind = type(value)
    return "a lazy string" if issubclass(kind, Promise) else f"a value of type {kind.__name__}"


def _cure(kind: type) -> str:
    # Django's models are imported here because most processes get by without this message.
    from django.core.files import File
    from django.db.models import Manager, Model, QuerySet

    if issubclass(kind, Model):
        return "send a dict of its fields, for example model_to_dict(instance)"
    if issubclass(kind, (QuerySet, Manager)):
        return "send a list of dicts, for example list(queryset.values())"
    if issubclass(kind, File):
        return "send its .url or .name"
    if issubclass(kind, LazyObject):
        return "send the values of the object that it stands for"
    if hasattr(kind, "__await__"):
        return "await it first"
    if hasattr(kind, "__iter__"):
        return "send list(...) or dict(...) of it"
    return "send a str, a number, a list, a dict or a dataclass made from it"
