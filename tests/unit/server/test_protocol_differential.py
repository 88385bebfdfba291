"""The fast protocol beside uvicorn's own class: the same bytes in, the same events and bytes out.

However the bytes are split for the fast one, it must do what uvicorn's does with one frame at a
time. (With several frames in one read uvicorn's forgets the good ones before a bad one.) There are
two differences, both on purpose: after its own close the fast one looks at nothing but a close, and
frames that come before the handshake is answered are read afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from django_ws.server.protocol import reading
from django_ws.server.protocol.protocol import FastProtocol
from tests.support.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    Client,
    compressed,
    frame,
)

MAX_SIZE = 300  # of a message, so that some are too large
SMALL = 200  # of those that take the short path, so that some do not
INNER = frame(TEXT, b"inner")


@pytest.fixture(autouse=True)
def small_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SMALL", SMALL)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Uvicorn logs invalid UTF-8 as an error."""
    logger = logging.getLogger("uvicorn.error")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


@dataclass
class Outcome:
    """All that can be seen of a connection, by its client and by its application."""

    events: list[Any]
    left: list[Any]
    output: bytes
    late: list[bytes]
    closing: bool


async def outcome_of(
    kind: type[Any],
    chunks: Sequence[bytes],
    later: Sequence[bytes],
    deflate: bool,
    close_code: int | None,
    accept_first: bool = True,
) -> Outcome:
    """``later`` comes when the application has taken all the rest, and perhaps closed."""
    client = Client(kind, deflate, ws_max_size=MAX_SIZE)
    await client.open(accept=accept_first)
    if not accept_first:
        await client.feed(*chunks[:1])  # then it reads no more
        await client.accept()
        chunks = chunks[1:]
    await client.feed(*chunks)
    await client.turns()
    if close_code is not None and not client.wire.closing:
        await client.send({"type": "websocket.close", "code": close_code})
    await client.feed(*later)
    await client.turns()
    closing = client.wire.closing
    left = await client.left() if not client.state.tasks else []
    await client.lose()
    return Outcome(client.events, left, client.output, client.wire.late, closing)


def both(
    frames: Sequence[bytes],
    chunks: Sequence[bytes],
    later_frames: Sequence[bytes] = (),
    later_chunks: Sequence[bytes] = (),
    deflate: bool = False,
    close_code: int | None = None,
    accept_first: bool = True,
) -> None:
    async def compare() -> None:
        rest = (deflate, close_code)
        theirs = await outcome_of(WebSocketsSansIOProtocol, frames, later_frames, *rest)
        ours = await outcome_of(FastProtocol, chunks, later_chunks, *rest, accept_first)
        if close_code is None:
            assert ours == theirs
        else:
            assert ours.events == theirs.events
            assert theirs.output.startswith(ours.output)  # pongs may come behind it
            assert theirs.closing or not ours.closing

    asyncio.run(compare())


# Frames of all sorts, good and bad

texts = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.integers(100, SMALL + 120).map(lambda size: b"x" * size),
    st.text(alphabet="é€😀", min_size=1, max_size=30).map(str.encode),
)
broken_texts = st.sampled_from([b"\xc3", b"\xff", b"a\xe2\x82"])
# Bytes that look like a frame, where they are not masked.
frames_themselves = st.integers(0, SMALL + 50).map(lambda n: b"x" * n + INNER)
payloads = st.one_of(texts, st.binary(max_size=20), broken_texts, frames_themselves)
masks = st.one_of(st.binary(min_size=4, max_size=4), st.just(bytes(4)))


@st.composite
def messages(draw: Any) -> bytes:
    """A message in one frame, sometimes with a longer length than it needs."""
    payload = draw(payloads)
    return frame(
        draw(st.sampled_from([TEXT, BINARY])),
        payload,
        mask=draw(masks),
        length_size=draw(st.sampled_from([None, None, None, 3, 9])),
    )


@st.composite
def controls(draw: Any) -> bytes:
    return frame(
        draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)), mask=draw(masks)
    )


@st.composite
def fragmented(draw: Any) -> list[bytes]:
    """A message in several frames, with control frames between them."""
    parts = draw(st.lists(payloads, min_size=2, max_size=4))
    frames = []
    for index, part in enumerate(parts):
        opcode = CONTINUATION if index else draw(st.sampled_from([TEXT, BINARY]))
        flags = FIN if index == len(parts) - 1 else 0
        frames.append(frame(opcode, part, flags=flags, mask=draw(masks)))
        if index < len(parts) - 1:
            frames += draw(st.lists(controls(), max_size=1))
    return frames


@st.composite
def deflated(draw: Any) -> bytes:
    """A compressed message; without the extension an error."""
    payload = draw(st.one_of(texts.map(compressed), st.binary(max_size=10)))
    return frame(draw(st.sampled_from([TEXT, BINARY])), payload, flags=FIN | RSV1)


@st.composite
def closes(draw: Any) -> bytes:
    code = draw(st.sampled_from([1000, 1001, 3000, 4999, 999, 1005, 1006, 1015, 5000]))
    payload = draw(
        st.one_of(
            st.just(b""),
            st.just(b"\x03"),
            st.just(code.to_bytes(2, "big")),
            st.just(code.to_bytes(2, "big") + b"reason"),
            st.just(code.to_bytes(2, "big") + b"\xff"),
        )
    )
    return frame(CLOSE, payload)


@st.composite
def anything(draw: Any) -> bytes:
    """Any bits in the head."""
    flags = draw(st.sampled_from([FIN, FIN, 0, FIN | RSV1, FIN | 0x20, FIN | 0x10]))
    mask = draw(st.one_of(masks, masks, st.none()))
    return frame(draw(st.integers(0, 15)), draw(payloads), flags=flags, mask=mask)


one_frame = st.one_of(messages(), messages(), messages(), controls(), deflated())
good = st.one_of(one_frame.map(lambda each: [each]), fragmented())
bad = st.one_of(anything(), closes(), messages()).map(lambda each: [each])
streams = st.lists(st.one_of(good, good, good, good, bad), max_size=7).map(
    lambda groups: [each for group in groups for each in group]
)


def cut(frames: Sequence[bytes], at: Sequence[int]) -> list[bytes]:
    """All of them in pieces: every other one of ``at`` names a place between two frames, and the
    others any place. A frame within a frame counts as one.
    """
    data = b"".join(frames)
    between = [0, *accumulate(map(len, frames))]
    between += [found.start() for found in re.finditer(re.escape(INNER), data)]
    places = {0, len(data)}
    for place in at:
        places.add(between[place // 2 % len(between)] if place % 2 else place % (len(data) + 1))
    return [data[a:b] for a, b in pairwise(sorted(places))]


cuts = st.lists(st.integers(0, 2**16), max_size=12)


@given(frames=streams, at=cuts, deflate=st.booleans())
def test_any_frames_split_anywhere(frames: list[bytes], at: list[int], deflate: bool) -> None:
    both(frames, cut(frames, at), deflate=deflate)


@given(frames=streams, at=cuts, later=streams, later_at=cuts, deflate=st.booleans())
def test_frames_after_the_application_has_closed(
    frames: list[bytes], at: list[int], later: list[bytes], later_at: list[int], deflate: bool
) -> None:
    chunks, later_chunks = cut(frames, at), cut(later, later_at)
    both(frames, chunks, later, later_chunks, deflate, close_code=4000)


@given(frames=streams, at=cuts, later=streams, later_at=cuts)
def test_frames_before_the_handshake_is_answered(
    frames: list[bytes], at: list[int], later: list[bytes], later_at: list[int]
) -> None:
    chunks, later_chunks = cut(frames, at), cut(later, later_at)
    both(frames, chunks, later, later_chunks, accept_first=False)


@given(frames=streams, at=cuts, missing=st.integers(1, 40))
def test_frames_of_which_the_last_one_is_not_whole(
    frames: list[bytes], at: list[int], missing: int
) -> None:
    if frames:
        frames = [*frames[:-1], frames[-1][:-missing]]
    both([each for each in frames if each], cut(frames, at))


@given(data=st.binary(max_size=300), at=cuts)
def test_any_bytes(data: bytes, at: list[int]) -> None:
    both([bytes([byte]) for byte in data], cut([data], at))


CONVERSATION = [
    frame(TEXT, b"short"),
    frame(BINARY, b""),
    frame(TEXT, "é€😀".encode() * 20),
    frame(BINARY, b"y" * (SMALL + 1)),
    frame(TEXT, b"one ", flags=0),
    frame(PING, b"in between"),
    frame(CONTINUATION, b"two ", flags=0),
    frame(CONTINUATION, b"three"),
    frame(PONG, b"unasked"),
    frame(TEXT, b"z", length_size=9),
    frame(CLOSE, b"\x03\xe8bye"),
]


def test_a_conversation_split_at_every_byte() -> None:
    whole = b"".join(CONVERSATION)
    for place in range(len(whole) + 1):
        both(CONVERSATION, [part for part in (whole[:place], whole[place:]) if part])


def test_a_conversation_byte_by_byte() -> None:
    both(CONVERSATION, [bytes([byte]) for byte in b"".join(CONVERSATION)])


def test_a_frame_within_a_frame_is_none() -> None:
    """The rest of a frame that looks like a whole one, behind what is held and what is owed."""
    for outer in (b"held", b"x" * (SMALL + 1)):
        for flags in (FIN, 0):
            whole = frame(BINARY, outer + INNER, flags=flags, mask=bytes(4))
            both([whole], [whole[: -len(INNER)], INNER])


def test_a_message_within_a_message_is_an_error_wherever_it_comes() -> None:
    first = frame(TEXT, b"1", flags=0)
    for between in (
        [],
        [frame(PING, b"!")],
        [frame(CONTINUATION, b"2", flags=0)],
        [frame(CONTINUATION, b"2", flags=0), frame(PONG, b"!")],
    ):
        frames = [first, *between, frame(TEXT, b"3"), frame(CONTINUATION, b"4")]
        both(frames, frames)
        both(frames, [b"".join(frames)])
