"""Messages that are made to hurt: each is refused, or decoded in a time that its size explains."""

import json
import struct
import threading
import time
from collections.abc import Callable
from itertools import product

import pytest

from django_ws import WebSocketHandler
from django_ws.codecs import Codec, JSONCodec, MessagePackCodec
from django_ws.exceptions import DecodeError
from tests.support.asgi_peer import client

MIB = 1024 * 1024  # the largest message by default
# CPU time of one message; the slowest takes a tenth of it. What is quadratic takes far longer.
SECONDS = 5.0


def array_of(count: int, item: bytes) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + item * count


def map_of(items: list[bytes]) -> bytes:
    return b"\xdf" + struct.pack(">I", len(items)) + b"".join(items)


JSON: dict[str, Callable[[], str]] = {
    "arrays in arrays": lambda: "[" * MIB,
    "arrays in arrays, closed": lambda: "[" * (MIB // 2) + "]" * (MIB // 2),
    "objects in objects": lambda: '{"a":' * (MIB // 5),
    "a long integer": lambda: "9" * MIB,
    "a long negative integer": lambda: "-" + "9" * MIB,
    "integers of 4,300 digits": lambda: f"[{','.join(['9' * 4300] * 240)}]",
    "a huge exponent": lambda: "1e999999",
    "a huge negative exponent": lambda: "1e-999999",
    "an exponent of many digits": lambda: "1e" + "9" * MIB,
    "many digits before the point": lambda: "9" * MIB + ".5",
    "many digits behind the point": lambda: "0." + "9" * MIB,
    "many zeros behind the point": lambda: "0." + "0" * MIB + "1",
    # Halfway between two floats: only the last digit decides.
    "floats that are hard to round": lambda: (
        f"[{','.join(['9007199254740993.' + '0' * 700 + '1'] * 1400)}]"
    ),
    "tiny floats of many digits": lambda: (
        f"[{','.join(['2.2250738585072011' + '1' * 700 + 'e-308'] * 1400)}]"
    ),
    "one key many times": lambda: "{" + ",".join(['"a":1'] * 150_000) + "}",
    "many keys": lambda: json.dumps(dict.fromkeys(map(str, range(85_000)), 1)),
    "lone surrogates": lambda: '"' + r"\ud800" * 170_000 + '"',
    "escapes": lambda: '"' + r"\u00e9" * 170_000 + '"',
    "empty arrays": lambda: f"[{','.join(['[]'] * 340_000)}]",
    "empty objects": lambda: f"[{','.join(['{}'] * 340_000)}]",
}

# Keys with one hash in a map: each must be compared with all before it.
SAME_HASH = [1 + k * (2**61 - 1) for k in range(8)]
MESSAGEPACK: dict[str, Callable[[], bytes]] = {
    "an array that claims 2**32 - 1 items": lambda: b"\xdd\xff\xff\xff\xff",
    "a map that claims 2**32 - 1 items": lambda: b"\xdf\xff\xff\xff\xff",
    "bytes that claim 4 GiB": lambda: b"\xc6\xff\xff\xff\xff",
    "text that claims 4 GiB": lambda: b"\xdb\xff\xff\xff\xff",
    "an extension that claims 4 GiB": lambda: b"\xc9\xff\xff\xff\xff\x05",
    "arrays in arrays": lambda: b"\x91" * MIB,
    "long arrays in long arrays": lambda: b"\xdd\x00\x0f\xff\xff" * (MIB // 5),
    "long arrays in long arrays, not too deep": lambda: b"\xdd\x0f\xff\xff\xff" * 500,
    "long maps in long maps": lambda: b"\xdf\x0f\xff\xff\xff\x01" * 500,
    "maps in maps": lambda: b"\x81\x01" * (MIB // 2),
    "maps as keys": lambda: b"\x81" * MIB,
    "empty arrays": lambda: array_of(MIB // 4, b"\x90"),
    "empty maps": lambda: array_of(MIB // 4, b"\x80"),
    "many arrays that are just large": lambda: array_of(127, array_of(8200, b"\xc0")),
    "one large array beside many small": lambda: (
        b"\xdd" + struct.pack(">I", 200_001) + array_of(50_000, b"\xc0") + b"\x90" * 200_000
    ),
    "as many levels as may be large": lambda: b"\x91" * 31 + array_of(MIB - 50, b"\xc0"),
    "too many large levels": lambda: b"\x91" * 32 + array_of(MIB - 50, b"\xc0"),
    "keys with one hash": lambda: map_of(
        [
            b"\x95" + b"".join(b"\xcf" + struct.pack(">Q", number) for number in key) + b"\xc0"
            for key in list(product(SAME_HASH, repeat=5))[:20_000]
        ]
    ),
    "keys with one hash below a key": lambda: (
        b"\x81\xa1a"
        + map_of(
            [
                b"\x95" + b"".join(b"\xcf" + struct.pack(">Q", number) for number in key) + b"\xc0"
                for key in list(product(SAME_HASH, repeat=5))[:20_000]
            ]
        )
    ),
    "integers as keys that differ in high bits": lambda: map_of(
        [b"\xcf" + struct.pack(">Q", number << 45 | 5) + b"\xc0" for number in range(65_000)]
    ),
    "a time beyond the calendar": lambda: b"\xc7\x0c\xff" + bytes(4) + b"\x7f" + b"\xff" * 7,
    "a time with too many nanoseconds": lambda: b"\xd7\xff" + b"\xff" * 8,
    "a time of the wrong length": lambda: b"\xc7\x05\xff" + bytes(5),
    "an extension as a key": lambda: b"\x81\xd4\x05a\x01",
}

CASES = [
    pytest.param(codec, make, id=f"{type(codec).__name__}: {name}")
    for codec, makers in ((JSONCodec(), JSON), (MessagePackCodec(), MESSAGEPACK))
    for name, make in makers.items()
]
FINE = {  # harmless, if long
    "integers of 4,300 digits", "a huge negative exponent", "many digits behind the point",
    "many zeros behind the point", "floats that are hard to round", "tiny floats of many digits",
    "one key many times", "many keys", "escapes", "empty arrays", "empty objects", "empty maps",
    "many arrays that are just large", "one large array beside many small",
    "as many levels as may be large", "integers as keys that differ in high bits",
}  # fmt: skip


@pytest.mark.parametrize(("codec", "make"), CASES)
def test_it_is_refused_or_decoded_in_time(
    codec: Codec, make: Callable[[], str | bytes], request: pytest.FixtureRequest
) -> None:
    data = make()
    assert len(data) <= MIB + 20
    refused = ""
    began = time.thread_time()
    try:
        codec.decode(data)
    except DecodeError as error:
        refused = error.reason
    assert time.thread_time() - began < SECONDS
    name = request.node.callspec.id.partition(": ")[2]
    assert (name in FINE) is not bool(refused)
    assert len(refused) <= 120  # a close frame takes 123 bytes


@pytest.mark.parametrize("depth", [10, 500, 100_000])
@pytest.mark.parametrize("codec", [JSONCodec(), MessagePackCodec()], ids=["JSON", "MessagePack"])
def test_half_of_the_usual_stack_is_enough_for_any_depth(codec: Codec, depth: int) -> None:
    """Python 3.13 lets C code go 10,000 levels deep, which takes between 2 and 4 MiB."""
    is_json = isinstance(codec, JSONCodec)
    data: str | bytes = "[" * depth + "]" * depth if is_json else b"\x91" * depth + b"\xc0"
    ended: list[str] = []

    def work() -> None:
        try:
            codec.decode(data)
        except DecodeError as error:
            ended.append(error.reason)
        else:
            ended.append("")

    before = threading.stack_size(4 * MIB)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join(10)
    assert ended == ["nested too deeply" if depth == 100_000 else ""]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "1e999999", "9" * 100_000, r'"\ud800"'], ids=lambda text: text[:8]
)
async def test_a_connection_is_closed_with_1007_and_the_process_lives_on(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        pass

    async with client(Handler) as ws:
        await ws.send_text(text)
        assert await ws.wait_closed() == 1007
        assert "[" * 100 not in ws.close_reason
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert len(caplog.messages[0]) < 200
