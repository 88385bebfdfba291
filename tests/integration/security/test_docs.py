"""docs/security.md: the defaults are those of the code, and every attack has its test."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from django_ws import WebSocketHandler, conf
from django_ws.auth import FirstMessageAuthMixin, recheck_batch
from django_ws.auth.tokens import authenticator, ticket
from django_ws.conf import trusted_proxies
from django_ws.connection import inbound
from django_ws.pubsub import topics
from django_ws.pubsub.backends import base
from django_ws.pubsub.hub import arrivals, topic_registry
from django_ws.pubsub.outbox import outbox
from django_ws.server.http import limits, waiting
from django_ws.server.options import Options
from django_ws.server.protocol import reading, stalled
from tests import ROOT
from tests.integration.auth import test_every_end as every_end
from tests.integration.security import test_forgeries as forgeries
from tests.integration.security import test_leaks as leaks
from tests.integration.security import test_origins as origins
from tests.integration.test_docs import served
from tests.support.ways import WAYS
from tests.unit.test_origin import TRICKS

PAGE = (ROOT / "docs" / "security.md").read_text()
MIB = 1024 * 1024


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose head begins with these words."""
    _, found, after = PAGE.partition(f"\n| {heading} |")
    assert found
    lines = after.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def shown(value: Any) -> str:
    match value:
        case None:
            return "unset"
        case bool():
            return str(value)
        case float():
            return f"{value:g} s"
        case int() if value % MIB == 0:
            return f"{value // MIB} MiB"
        case str():
            return f'`"{value}"`'
        case ():
            return "none"
    return str(value)


# Where a default depends on the project, its words say how.
IN_WORDS = {"ROOT_WS_URLCONF", "WS_MIDDLEWARE", "WS_BROADCAST", "WS_SYNC_THREADS"}


def test_every_setting_is_in_the_table_with_its_default() -> None:
    table = {row[0].strip("`"): row[1] for row in rows("setting")}
    assert list(table) == list(conf.SETTINGS)
    for name in set(table) - IN_WORDS:
        default = conf.SETTINGS[name].default()
        assert table[name] == shown(() if name == "WS_TRUSTED_PROXIES" else default), name


def test_every_bound_of_a_handler_is_in_the_table_with_its_default() -> None:
    table = {row[0].strip("`"): row[1] for row in rows("attribute of a handler")}
    for name, said in table.items():
        assert said == shown(getattr(WebSocketHandler, name)), name
    assert FirstMessageAuthMixin.first_message_seconds == WebSocketHandler.first_message_seconds
    plain = {
        name
        for name, value in vars(WebSocketHandler).items()
        if not name.startswith("_") and not callable(value) and not isinstance(value, property)
    }
    bounding = plain - {"codec", "using", "PROCESS_CANCEL_ERRORS"}
    assert bounding == set(table)


def test_what_cannot_be_changed_is_in_the_table() -> None:
    assert [row[1] for row in rows("not to be changed")] == [
        f"{inbound.MAX_WAITING_MESSAGES} messages, {shown(inbound.MAX_WAITING_BYTES)}",
        f"{topics.MAX_TOPIC_BYTES} bytes",
        f"{authenticator.MAX_TOKEN_SIZE} characters",
        f"{ticket.TICKET_SECONDS} s",
        shown(base.PUBLISH_SECONDS),
        shown(outbox.MAX_WAITING_BYTES),
        shown(arrivals.MAX_WAITING_BYTES),
        shown(topic_registry.AT_ONCE),
        shown(recheck_batch.MAX_BATCH),
        shown(trusted_proxies.MAX_HOPS),
    ]


def test_what_the_server_bounds_is_in_the_table() -> None:
    bounds = limits.Limits()
    assert [row[1] for row in rows("of `runws` and `runserver`")] == [
        f"{bounds.max_header_size} bytes",
        f"{limits.MAX_HEADERS}",
        shown(bounds.header_timeout),
        f"a quarter of the open files, at most {limits.MOST_WAITING}",
        shown(waiting.BODY_SECONDS),
        f"{reading.CONTROL_FRAMES} in {reading.CONTROL_SECONDS:g} s",
        f"{reading.FRAGMENTS}, and 1 for {reading.BYTES_OF_A_FRAGMENT} bytes",
        f"{Options().ws_max_queue}",
        shown(stalled.CLOSED_SECONDS),
        shown(stalled.PAGE_SECONDS),
    ]


ATTACKS = rows("attack")


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row[-1].rpartition("::")[2].strip("`"))
def test_every_attack_has_its_test(row: list[str]) -> None:
    path, _, name = row[-1].strip("`").partition("::")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert not name or hasattr(module, name)
    assert len(row) == 6


def cases(function: Callable[..., Any]) -> int:
    """How many tests a parametrized test is."""
    count = 1
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            count *= len(mark.args[1])
    return count


def test_the_table_tells_how_many_tries_there_were() -> None:
    tries = {row[-1].strip("`").rpartition("::")[2]: row[1] for row in ATTACKS}
    leaking = [
        cases(test) for name, test in vars(leaks.TestNoWayOfLoggingInIsTold).items()
        if name.startswith("test_")
    ]  # fmt: skip
    expected = {
        "test_no_other_origin_gets_in": len(TRICKS),
        "test_no_page_with_several_origins_gets_in": len(origins.SEVERAL),
        "test_no_other_origin_gets_in_on_the_wire": len(origins.ON_THE_WIRE),
        "test_what_is_pipelined_behind_a_wrong_log_in_reaches_no_hook": len(WAYS),
        "TestNoWayOfLoggingInIsTold": len(WAYS) * sum(leaking),
        "test_when_the_socket_is_closed": len(every_end.PAIRS),
    }
    for name, test in vars(forgeries).items():
        if name in tries:
            expected[name] = cases(test)
    assert {name: tries[name] for name in expected} == {
        name: str(count) for name, count in expected.items()
    }


def test_the_table_tells_how_many_ways_and_ends_there_are() -> None:
    [row] = [
        row for row in ATTACKS if row[-1].strip("`").endswith("test_when_the_socket_is_closed")
    ]
    ways, ends = len(every_end.WAYS), len(every_end.ENDS)
    assert f"{ways} ways of logging in against {ends} ends" in row[0]


[LOGGING] = re.findall(r"```python\n(import logging\n.*?)```", PAGE, re.DOTALL)


def test_the_filter_takes_the_query_out_of_uvicorns_lines() -> None:
    namespace: dict[str, Any] = {}
    exec(LOGGING, namespace)
    record = logging.LogRecord(
        "uvicorn.error", logging.INFO, "", 0, '%s - "WebSocket %s" %d',
        ("127.0.0.1:5", "/ws/?ticket=secret", 403), None,
    )  # fmt: skip
    assert namespace["WithoutQuery"]().filter(record)
    assert record.getMessage() == '127.0.0.1:5 - "WebSocket /ws/" 403'


def test_with_the_logging_of_the_page_plain_uvicorn_logs_everything_but_queries(
    tmp_path: Path,
) -> None:
    expected = [
        '"WebSocket /ws/echo/" [accepted]',
        '"GET /admin/login/ HTTP/1.1" 200',
        "Not Found: /missing/",  # of Django's own logger
    ]

    def are_there(lines: Sequence[str]) -> bool:
        return all(any(text in line for line in lines) for text in expected)

    with served(tmp_path, more_settings=LOGGING) as site:
        with connect(f"ws://{site.host}/ws/echo/?ticket=secret"):
            pass
        with urlopen(f"http://{site.host}/admin/login/?next=secret", timeout=20):
            pass
        with pytest.raises(HTTPError):
            urlopen(f"http://{site.host}/missing/?token=secret", timeout=20)
        assert site.output.wait_for(are_there, 20), site.output.lines
        assert "secret" not in "\n".join(site.output.lines)
