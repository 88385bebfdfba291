"""Each codec: what it encodes and decodes, what it refuses, and how it says so."""

import array
import dataclasses
import datetime as dt
import enum
import json
import math
import struct
import threading
import uuid
from collections.abc import Callable
from decimal import Decimal
from itertools import product
from typing import Any

import msgspec
import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.db import models
from django.utils.dateparse import parse_duration
from django.utils.functional import SimpleLazyObject, lazy, lazystr
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st

from django_ws.codecs import BytesCodec, Codec, JSONCodec, MessagePackCodec, TextCodec
from django_ws.exceptions import DecodeError, EncodeError, WebSocketError

ALL: list[Codec] = [JSONCodec(), MessagePackCodec(), TextCodec(), BytesCodec()]
STRUCTURED: list[Codec] = [JSONCodec(), MessagePackCodec()]
PARIS_SUMMER = dt.timezone(dt.timedelta(hours=2))


def name_of(value: object) -> str:
    return type(value).__name__


each_codec = pytest.mark.parametrize("codec", ALL, ids=name_of)
each_structured_codec = pytest.mark.parametrize("codec", STRUCTURED, ids=name_of)


class Size(models.TextChoices):
    SMALL = "S", lazystr("small")


class Rank(models.IntegerChoices):
    FIRST = 1, lazystr("first")


class Colour(enum.Enum):
    RED = "red"
    STRANGE = object()


class Number(int):
    pass


class Fraction(float):
    pass


@dataclasses.dataclass
class Point:
    x: int
    y: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    x: Any


class Typed(msgspec.Struct):
    x: Any


def broken_text() -> str:
    raise LookupError("no such translation")


# --- types -----------------------------------------------------------------------------------

TYPES: list[tuple[object, object]] = [
    (None, None),
    (True, True),
    (2**64 - 1, 2**64 - 1),
    (-(2**63), -(2**63)),
    (1.5, 1.5),
    ("héllo \U0001f600 \x00", "héllo \U0001f600 \x00"),
    ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
    ((1, 2), [1, 2]),
    ({1}, [1]),
    (frozenset([1]), [1]),
    (dt.datetime(2024, 2, 29, 12, 30), "2024-02-29T12:30:00"),
    (dt.date(2024, 2, 29), "2024-02-29"),
    (dt.time(12, 30, 1, 5), "12:30:01.000005"),
    (dt.time(12, 30, tzinfo=dt.UTC), "12:30:00Z"),
    (Decimal("1.50"), "1.50"),
    (Decimal("NaN"), "NaN"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (lazystr("lazy"), "lazy"),
    (lazystr(mark_safe("<b>")), "<b>"),
    (mark_safe("<b>"), "<b>"),
    (Number(3), 3),
    (Fraction(1.5), 1.5),
    (Size.SMALL, "S"),
    (Rank.FIRST, 1),
    (Colour.RED, "red"),
    (Point(1, Slotted(2)), {"x": 1, "y": {"x": 2}}),
    (Typed(1), {"x": 1}),
    ({lazystr("k"): 1, mark_safe("s"): 2, Size.SMALL: 3}, {"k": 1, "s": 2, "S": 3}),
    ({dt.date(2024, 2, 29): 1}, {"2024-02-29": 1}),
]


@each_structured_codec
@pytest.mark.parametrize(("message", "expected"), TYPES, ids=lambda value: repr(value)[:40])
def test_a_type_arrives_as(codec: Codec, message: object, expected: object) -> None:
    assert codec.decode(codec.encode(message)) == expected


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (dt.datetime(2024, 2, 29, 12, 30, 0, 5, dt.UTC), '"2024-02-29T12:30:00.000005Z"'),
        (dt.datetime(2024, 2, 29, 12, 30, tzinfo=PARIS_SUMMER), '"2024-02-29T12:30:00+02:00"'),
        ([math.nan, math.inf, -math.inf, Fraction("nan")], "[null,null,null,null]"),
        (2**64, "18446744073709551616"),
        ({1: 1, Number(2): 2}, '{"1":1,"2":2}'),
        ({None: 1, True: 2, False: 3}, '{"null":1,"true":2,"false":3}'),
        ({uuid.UUID(int=1): 1}, '{"00000000-0000-0000-0000-000000000001":1}'),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_json_writes(message: object, text: str) -> None:
    assert JSONCodec().encode(message) == text


class Payload(enum.Enum):
    EMPTY = b""


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (b"", "$"),
        (bytearray(b"a"), "$"),
        (memoryview(b"a"), "$"),
        ({"user": {"avatar": b"\xff" * 150}}, '$["user"]["avatar"]'),
        ([1, "a", [None, {"b": [b"x" * 70_000]}]], '$[2][1]["b"][0]'),
        ((1, 2.5, memoryview(b"\xff")), "$[2]"),
        ({2**70: bytearray(b"\xff")}, "$[1180591620717411303424]"),
        ({frozenset([b"k"])}, "$[0][0]"),
        ({b"k": 1}, "$[a value of type bytes]"),
        (Point(1, Slotted([b"x"])), "$.y.x[0]"),
        (Typed(b"x"), "$.x"),
        (Payload.EMPTY, "$.value"),
        ({"a": "ęć", "b": [Point(2, b"x")]}, '$["b"][0].y'),
    ],
    ids=name_of,
)
def test_bytes_are_no_json(message: object, path: str) -> None:
    with pytest.raises(EncodeError, match="bytes, which JSON has not: send base64") as caught:
        JSONCodec().encode(message)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "message",
    [
        {"text": "ęćłİşğ", "at": 1e300, "more": [0xC4, 0xC5, 0xC6, 2**70, -0.1]},
        Point(0xC4C4C4C4, Slotted({1, 2, "ę"})),
        Typed({"Ķ": [lazystr("ķ"), mark_safe("Ä"), Colour.RED, Size.SMALL, Number(0xC5)]}),
        msgspec.Raw('{"ę":1}'.encode()),
    ],
    ids=name_of,
)
def test_what_looks_like_bytes_in_messagepack_is_json_all_the_same(message: Any) -> None:
    assert JSONCodec().decode(JSONCodec().encode(message)) is not None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            dt.datetime(2024, 2, 29, 12, 30, tzinfo=PARIS_SUMMER),
            dt.datetime(2024, 2, 29, 10, 30, tzinfo=dt.UTC),
        ),
        ([b"\xff", bytearray(b"\xff"), memoryview(b"\xff")], [b"\xff", b"\xff", b"\xff"]),
        ([math.inf, -math.inf], [math.inf, -math.inf]),
        ({1: 1, None: 2, (3, 4): 5, b"k": 6}, {1: 1, None: 2, (3, 4): 5, b"k": 6}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_messagepack_keeps(message: object, expected: object) -> None:
    codec = MessagePackCodec()
    assert codec.decode(codec.encode(message)) == expected


def test_messagepack_passes_unknown_extensions_on_both_ways() -> None:
    codec = MessagePackCodec()
    extension = codec.decode(b"\xd4\x05a")
    assert isinstance(extension, msgspec.msgpack.Ext)
    assert (extension.code, extension.data) == (5, b"a")
    assert codec.encode(extension) == b"\xd4\x05a"


@given(st.timedeltas())
def test_django_parses_an_encoded_timedelta(duration: dt.timedelta) -> None:
    assert parse_duration(json.loads(JSONCodec().encode(duration))) == duration


# --- frames ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "message", "kind"),
    [
        (JSONCodec(), {"a": 1}, str),
        (MessagePackCodec(), {"a": 1}, bytes),
        (TextCodec(), "hello", str),
        (TextCodec(), "hé", str),
        (BytesCodec(), b"\xff", bytes),
    ],
    ids=name_of,
)
def test_the_frame_is(codec: Codec, message: object, kind: type) -> None:
    data = codec.encode(message)
    assert type(data) is kind
    assert codec.decode(data) == message


def test_json_is_read_from_binary_frames_too() -> None:
    assert JSONCodec().decode('{"a":"é"}'.encode()) == {"a": "é"}


@pytest.mark.parametrize(
    ("codec", "data", "reason"),
    [
        (MessagePackCodec(), "text", "a text frame"),
        (TextCodec(), b"bytes", "a binary frame"),
        (BytesCodec(), "text", "a text frame"),
    ],
    ids=name_of,
)
def test_the_other_kind_of_frame_is_refused(codec: Codec, data: str | bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        codec.decode(data)


@pytest.mark.parametrize("message", [bytearray(b"ab"), memoryview(b"ab"), array.array("B", b"ab")])
def test_bytes_codec_copies_bytes_like_objects(message: Any) -> None:
    data = BytesCodec().encode(message)
    assert data == b"ab"
    assert type(data) is bytes


# --- what cannot be encoded ------------------------------------------------------------------


@each_codec
def test_an_unencodable_message_raises_encode_error(codec: Codec) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode(object())
    assert isinstance(caught.value, WebSocketError)
    assert isinstance(caught.value, TypeError)
    assert caught.value.path == "$"


@each_codec
def test_a_lazy_object_such_as_request_user_is_refused_unevaluated(codec: Codec) -> None:
    evaluated: list[bool] = []
    message = SimpleLazyObject(lambda: evaluated.append(True))
    with pytest.raises(EncodeError, match="SimpleLazyObject"):
        codec.encode(message)
    assert evaluated == []


@each_structured_codec
def test_the_error_about_a_lazy_object_within_a_message_says_what_to_send(codec: Codec) -> None:
    evaluated: list[bool] = []
    message = {"user": SimpleLazyObject(lambda: evaluated.append(True))}
    with pytest.raises(EncodeError, match="send the values of the object") as caught:
        codec.encode(message)
    assert (caught.value.path, evaluated) == ('$["user"]', [])


BAD = object()


@each_structured_codec
@pytest.mark.parametrize(
    ("message", "path"),
    [
        (BAD, "$"),
        ({"user": {"name": "a", "avatar": BAD}}, '$["user"]["avatar"]'),
        ([1, 2, 3, Point(1, BAD)], "$[3].y"),
        ((Slotted(BAD),), "$[0].x"),
        ([Typed(BAD)], "$[0].x"),
        ({"set": {BAD}}, '$["set"][0]'),
        ({1: BAD}, "$[1]"),
        ({lazystr("k"): BAD}, "$[a lazy string]"),
        ({'quo"te': BAD}, '$["quo\\"te"]'),
        ({"k" * 1000: BAD}, f'$["{"k" * 60}"]'),
        ([Colour.STRANGE], "$[0].value"),
        ({"a": {BAD: 1}}, '$["a"][a value of type object]'),
        ({"\ud800": 1}, '$["\\ud800"]'),
        ({"a": ["\ud800"]}, '$["a"][0]'),
        ([10**5000], "$[0]"),
        ([lazy(broken_text, str)()], "$[0]"),
    ],
)
def test_the_error_names_the_path(codec: Codec, message: object, path: str) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode(message)
    assert caught.value.path == path
    assert caught.value.__cause__ is not None


async def awaited() -> None:
    pass


def coroutine_closed() -> object:
    coroutine = awaited()
    coroutine.close()
    return coroutine


@each_structured_codec
@pytest.mark.parametrize(
    ("value", "kind", "cure"),
    [
        (User(username="a"), "User", "model_to_dict"),
        (User.objects.none(), "QuerySet", r"list\(queryset.values\(\)\)"),
        (User.objects, "Manager", r"list\(queryset.values\(\)\)"),
        (ContentFile(b""), "ContentFile", r"\.url or \.name"),
        (coroutine_closed(), "coroutine", "await it first"),
        (range(3), "range", r"list\(...\)"),
        (1j, "complex", "send a str"),
        ("\ud800", "lone surrogate at position 0", "errors='replace'"),
        (10**5000, "", "send it as a str"),
        (lazy(broken_text, str)(), "a lazy string raised", "LookupError: no such"),
        (memoryview(b"abcd")[::2], "memoryview", "contiguous"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_reason_names_the_type_and_the_cure(
    codec: Codec, value: object, kind: str, cure: str
) -> None:
    with pytest.raises(EncodeError, match=cure) as caught:
        codec.encode({"value": value})
    assert kind in caught.value.reason
    assert caught.value.path == '$["value"]'


def test_a_key_that_json_cannot_have_is_named_as_a_key() -> None:
    with pytest.raises(EncodeError, match="as a key: a value of type tuple") as caught:
        JSONCodec().encode({"a": {(1, 2): 3}})
    assert caught.value.path == '$["a"][a value of type tuple]'


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_messagepack_refuses_integers_beyond_64_bits(number: int) -> None:
    with pytest.raises(EncodeError, match="send it as a str") as caught:
        MessagePackCodec().encode([number])
    assert caught.value.path == "$[0]"


def test_messagepack_refuses_an_aware_datetime_that_utc_cannot_hold() -> None:
    with pytest.raises(EncodeError, match="a value of type datetime raised OverflowError"):
        MessagePackCodec().encode(dt.datetime(1, 1, 1, tzinfo=PARIS_SUMMER))


@each_structured_codec
def test_a_message_that_contains_itself_is_refused_with_its_path(codec: Codec) -> None:
    message: dict[str, Any] = {"a": [1]}
    message["a"].append({"back": message})
    with pytest.raises(EncodeError, match="a value of type dict contains itself") as caught:
        codec.encode(message)
    assert caught.value.path == '$["a"][1]["back"]'


@each_structured_codec
def test_a_message_nested_too_deeply_is_refused(codec: Codec) -> None:
    message: list[Any] = []
    for _ in range(50_000):
        message = [message]
    with pytest.raises(EncodeError, match="nested too deeply") as caught:
        codec.encode(message)
    assert caught.value.path == "$"


@each_structured_codec
def test_each_depth_is_either_encoded_or_refused_with_encode_error(codec: Codec) -> None:
    def is_refused(depth: int) -> bool:
        message: list[Any] = []
        for _ in range(depth):
            message = [message]
        try:
            codec.encode(message)
        except EncodeError as error:
            assert "nested too deeply" in error.reason  # noqa: PT017
            return True
        return False

    # Python 3.12 and newer go deeper: from there on not each is tried.
    first = next(depth for depth in [*range(1100), *range(1100, 50_000, 97)] if is_refused(depth))
    before = [is_refused(depth) for depth in range(first - 97, first)]
    assert before == sorted(before)  # at first none, then all
    assert all(is_refused(depth) for depth in range(first, first + 3))


@pytest.mark.parametrize(
    ("codec", "message", "cure"),
    [
        (TextCodec(), b"a", r"bytes, but TextCodec sends str alone: use str"),
        (TextCodec(), 1, r"int, but TextCodec sends str alone: use str"),
        (TextCodec(), lazystr("a"), r"use str\(...\)"),
        (TextCodec(), "a\ud800", "lone surrogate at position 1"),
        (BytesCodec(), "a", r"str, but BytesCodec .* use \.encode\(\)"),
        (BytesCodec(), 5, r"int, but BytesCodec .* use bytes\(...\)"),
        (BytesCodec(), [1], r"list, but BytesCodec .* use bytes\(...\)"),
    ],
)
def test_text_and_bytes_take_their_own_kind_alone(codec: Codec, message: Any, cure: str) -> None:
    with pytest.raises(EncodeError, match=cure) as caught:
        codec.encode(message)
    assert caught.value.path == "$"


def test_bytes_codec_refuses_a_memoryview_that_was_released() -> None:
    view = memoryview(b"a")
    view.release()
    with pytest.raises(EncodeError):
        BytesCodec().encode(view)


# --- what cannot be decoded ------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        "9" * 5000,
        "01",
        "[1,]",
        "{1:2}",
        "{} {}",
        r'"\ud800"',
        r'{"\ud800x":1}',
        r'"\ud800\ud800"',
        r'"\ude00"',
        '"\ud800"',
        b'"\xff"',
        b'{"\xff":1}',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        "[" * 1_000_000,
        "[" * 1_000_000 + "]" * 1_000_000,
        b'{"a":' * 1_000_000,
    ],
    ids=lambda data: repr(data)[:20],
)
def test_json_refuses(data: str | bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        JSONCodec().decode(data)
    assert 0 < len(caught.value.reason) <= 120


def test_json_takes_the_last_of_duplicate_keys() -> None:
    assert JSONCodec().decode('{"a":1,"a":2}') == {"a": 2}


NESTED: dict[str, tuple[Codec, Callable[[int], Any]]] = {
    "JSON arrays": (JSONCodec(), lambda depth: "[" * depth + "]" * depth),
    "JSON objects": (JSONCodec(), lambda depth: '{"a":' * depth + "1" + "}" * depth),
    "JSON bytes": (JSONCodec(), lambda depth: b"[" * depth + b"]" * depth),
    "MessagePack arrays": (MessagePackCodec(), lambda depth: b"\x91" * depth + b"\xc0"),
    "MessagePack maps": (MessagePackCodec(), lambda depth: b"\x81\xa1a" * depth + b"\xc0"),
}


@pytest.mark.parametrize("name", NESTED)
def test_what_was_decoded_can_be_sent_on_within_more(name: str) -> None:
    codec, nested = NESTED[name]
    for depth in (499, 500):
        message: Any = codec.decode(nested(depth))
        for _ in range(50):
            message = {"received": message}
        assert codec.encode(message)
    for depth in (501, 983, 50_000):
        with pytest.raises(DecodeError, match="nested too deeply"):
            codec.decode(nested(depth))


@pytest.mark.parametrize("number", [600, 20_000])
def test_many_containers_beside_each_other_are_no_depth(number: int) -> None:
    message = [[1], {"a": [2]}] * number
    for codec in (JSONCodec(), MessagePackCodec()):
        assert codec.decode(codec.encode(message)) == message
    assert JSONCodec().decode('"' + "[" * 2000 + '"') == "[" * 2000


def test_a_deep_message_in_a_thread_is_refused_too() -> None:
    errors: list[BaseException] = []

    def decode() -> None:
        try:
            JSONCodec().decode("[" * 1_000_000)
        except DecodeError as error:
            errors.append(error)

    thread = threading.Thread(target=decode)
    thread.start()
    thread.join(10)
    assert [str(error) for error in errors] == ["cannot decode the message: nested too deeply"]


def array_of(*items: bytes) -> bytes:
    return b"\xdd" + struct.pack(">I", len(items)) + b"".join(items)


def map_of(*items: bytes) -> bytes:
    return b"\xdf" + struct.pack(">I", len(items) // 2) + b"".join(items)


BIG_STRING = b"\xda\x40\x00" + b"a" * 0x4000
NULLS = array_of(*[b"\xc0"] * 20_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\xa1\xff",
        b"\x81\xa1\xff\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xd4\xff\x00",
        b"\x81\x81\x01\x02\x03",
        b"\x91" * 1_000_000,
        b"\x81\x01" * 1_000_000,
        b"\x91" * 200 + NULLS,
        b"\x81\xa1a" * 200 + NULLS,
        NULLS[:-1],
        array_of(BIG_STRING, b"\xa1\xff"),
        map_of(b"\xa1\xff", BIG_STRING),
        map_of(b"\x92\x01\x02", BIG_STRING),
    ],
    ids=lambda data: repr(data)[:30],
)
def test_messagepack_refuses(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        MessagePackCodec().decode(data)
    assert 0 < len(caught.value.reason) <= 120


@pytest.mark.parametrize(
    "message",
    [
        "x" * 20_000,
        b"x" * 20_000,
        [None] * 20_000,
        [{"id": i, "tags": ["a", "b"]} for i in range(2_000)],
        {str(i): {"n": i} for i in range(2_000)},
        dict.fromkeys(range(10_000), 1.5),
        {"wrapped": {"list": [["x" * 100] * 200, {None: b"y" * 9_000, True: 0.5}]}},
        dict.fromkeys("abcdefghijklmno", "x" * 2_000),
        ["x" * 2_000] * 15,
        [dt.datetime(2024, 2, 29, tzinfo=dt.UTC)] * 2_000,
    ],
    ids=lambda message: repr(message)[:30],
)
def test_messagepack_decodes_large_messages(message: object) -> None:
    codec = MessagePackCodec()
    assert codec.decode(codec.encode(message)) == message


def test_messagepack_refuses_a_large_map_whose_keys_share_one_hash() -> None:
    same_hash = [1 + k * (2**61 - 1) for k in range(8)]
    keys = list(product(same_hash, repeat=5))
    assert len({hash(key) for key in keys}) == 1
    data = MessagePackCodec().encode(dict.fromkeys(keys[:2_000]))
    with pytest.raises(DecodeError, match="got `array`"):
        MessagePackCodec().decode(data)


# --- fuzzing ---------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)
JSON_LIKE = st.text(alphabet='[]{}",:0123456789.eE+-\\u truefalsn\ud800\x00é')


@each_structured_codec
@given(message=PLAIN)
def test_plain_data_makes_the_round_trip(codec: Codec, message: Any) -> None:
    assert codec.decode(codec.encode(message)) == message


@given(st.integers())
def test_integers_of_any_size_make_the_round_trip_in_json(number: int) -> None:
    codec = JSONCodec()
    assert codec.decode(codec.encode([number, number * 10**40])) == [number, number * 10**40]


@each_codec
@given(data=st.text(alphabet=st.characters()) | JSON_LIKE | st.binary() | PLAIN.map(json.dumps))
def test_decode_raises_nothing_but_decode_error(codec: Codec, data: str | bytes) -> None:
    try:
        codec.decode(data)
    except DecodeError as error:
        assert error.reason  # noqa: PT017 (most data is refused, some is not)


@each_structured_codec
@given(
    message=st.recursive(
        st.text(alphabet="a\ud800é") | st.integers() | st.builds(object) | st.dates() | st.binary(),
        lambda children: (
            st.lists(children)
            | st.dictionaries(
                st.integers() | st.text("a\ud800") | st.tuples(st.integers()), children
            )
            | st.builds(Point, st.integers(), children)
        ),
        max_leaves=10,
    )
)
def test_encode_raises_nothing_but_encode_error(codec: Codec, message: Any) -> None:
    try:
        codec.encode(message)
    except EncodeError as error:
        assert error.path.startswith("$")  # noqa: PT017 (some messages are fine)


@each_structured_codec
def test_one_codec_serves_many_threads(codec: Codec) -> None:
    wrong: list[object] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        message = {"n": number, "lazy": [lazystr("x"), dt.date(2024, 2, 29)] * 20}
        expected = {"n": number, "lazy": ["x", "2024-02-29"] * 20}
        start.wait(10)
        for _ in range(300):
            if (got := codec.decode(codec.encode(message))) != expected:
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_an_encoder_called_inside_a_lazy_value_disturbs_nothing() -> None:
    codec = JSONCodec()
    inner: Callable[[], str] = lambda: codec.encode({"in": ["ner"] * 100})  # noqa: E731
    message = {"before": "b" * 500, "inner": lazy(inner, str)(), "after": 1}
    decoded = codec.decode(codec.encode(message))
    assert decoded == {**message, "inner": inner()}
