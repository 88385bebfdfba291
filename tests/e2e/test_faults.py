"""Fuzzing, freezes and soaks: longer than `make test` may take. Run by `make faults`."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.conftest import Start
from tests.e2e.test_memory import check_growth
from tests.support.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from tests.support.servers import DEFAULT, KINDS
from tests.support.visit import Visit

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

# Valid UTF-8 alone: uvicorn itself prints a traceback for any other text.
payloads = st.text(max_size=200).map(str.encode) | st.sampled_from(
    [
        b"",
        b"{}",
        b"[" * 5000,
        b'{"a":',
        b'"\\ud800"',
        b"NaN",
        b"9" * 5000,
        b"x" * 70000,
    ]
)
frames = st.lists(
    st.tuples(
        st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]),
        payloads,
        st.booleans(),
    ),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames)
def test_random_frames_end_no_connection_but_their_own(
    default_visit: Visit, sent: list[tuple[int, bytes, bool]]
) -> None:
    with default_visit.connect("echo/") as bystander:
        with default_visit.raw("echo/") as client:
            assert client.status() == 101
            with suppress(ConnectionError):  # the server may have had enough
                for opcode, payload, final in sent:
                    client.send_frame(opcode, payload, final=final)
            client.reset()
        bystander.send('"still here"')
        assert bystander.recv(5) == '"still here"'


def test_a_soak_of_twenty_thousand_connections_leaves_no_memory_behind(start: Start) -> None:
    check_growth(start(KINDS[DEFAULT]), 1000, 20_000)
