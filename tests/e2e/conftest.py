"""The servers of the end-to-end tests: each kind is started once, when first needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

# Fixtures of the tests of the example project.
from tests.e2e.browsing import browser, cookies, database, new_visitor, page, site  # noqa: F401
from tests.support.servers import DEFAULT, KINDS, Kind, Server
from tests.support.visit import Visit

Start = Callable[[Kind], Server]


@pytest.fixture(scope="session")
def start_once() -> Iterator[Callable[[str], Server]]:
    """Gives the running server of a kind. All are ended after the last test."""
    running: dict[str, Server] = {}

    def start(name: str) -> Server:
        if name not in running:
            running[name] = Server(KINDS[name])
        return running[name]

    yield start
    for server in running.values():
        server.stop()
    for server in running.values():
        check(server)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers for one test alone."""
    started: list[Server] = []

    def new(kind: Kind) -> Server:
        server = Server(kind)
        started.append(server)
        return server

    yield new
    for server in started:
        server.stop()
    for server in started:
        check(server)


# The second Python has its tests on the default server alone: what differs between servers does
# not differ between Pythons.
SERVERS = os.environ.get("E2E_SERVERS", ",".join(KINDS)).split(",")


@pytest.fixture(params=SERVERS)
def visit(request: pytest.FixtureRequest, start_once: Callable[[str], Server]) -> Iterator[Visit]:
    """A visit to each kind of server."""
    yield from _visit(start_once(request.param))


@pytest.fixture
def default_visit(start_once: Callable[[str], Server]) -> Iterator[Visit]:
    """A visit to the server that a project has by default."""
    yield from _visit(start_once(DEFAULT))


def _visit(server: Server) -> Iterator[Visit]:
    visit = Visit(server)
    yield visit
    visit.check()
    check(server)


def check(server: Server) -> None:
    """Nothing in the output, and nothing in the log outside of a visit, that tells of trouble."""
    assert not server.new_trouble(), server.printed[-8000:]
