"""Customers with a PostgreSQL schema each, by django-tenants: nobody sees another one's rows."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests import ROOT
from tests.support.postgres_server import PostgresServer
from tests.support.project import COMMAND_SECONDS, Uvicorn, environment

pytestmark = pytest.mark.heavy

SECONDS = 30.0
CUSTOMERS = ("acme", "bolt")
KEPT = {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
POOLED = {"CONN_HEALTH_CHECKS": True, "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def sessions(postgres: PostgresServer) -> dict[str, str]:
    """The key of a session of a user of each customer."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.tenants.prepare", *CUSTOMERS],
        cwd=ROOT,
        env=environment(**site(postgres)),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    keys: dict[str, str] = json.loads(done.stdout.splitlines()[-1])  # after what is migrated
    return keys


def site(postgres: PostgresServer, **database: Any) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "tests.tenants.settings",
        "TENANTS_PORT": str(postgres.port),
        "TENANTS_DATABASE": json.dumps(database),
    }


def connected(server: Uvicorn, customer: str, session: str = "") -> ClientConnection:
    return connect(
        f"ws://{customer}.localhost/users/",
        sock=socket.create_connection(("127.0.0.1", server.port), SECONDS),
        additional_headers={"Cookie": f"sessionid={session}"} if session else {},
        open_timeout=SECONDS,
        proxy=None,
    )


def receive(client: ClientConnection) -> Any:
    return json.loads(client.recv(SECONDS))


@pytest.mark.parametrize("database", [{}, KEPT, POOLED], ids=["closed", "kept", "pooled"])
def test_each_connection_sees_the_rows_of_its_customer_alone(
    postgres: PostgresServer, sessions: dict[str, str], database: dict[str, Any]
) -> None:
    with (
        Uvicorn(ROOT, "tests.tenants.asgi:application", 0, **site(postgres, **database)) as server,
        ExitStack() as stack,
    ):
        clients = [
            (customer, stack.enter_context(connected(server, customer, sessions[customer])))
            for _ in range(4)
            for customer in CUSTOMERS
        ]
        for customer, client in clients:
            assert receive(client) == f"user of {customer}"
        for _ in range(10):
            for _, client in clients:  # all at once, on two threads
                client.send("1")
            for customer, client in clients:
                names = [f"user of {customer}"]
                assert receive(client) == [names, names]


def test_a_session_of_one_customer_logs_nobody_in_at_another(
    postgres: PostgresServer, sessions: dict[str, str]
) -> None:
    with (
        Uvicorn(ROOT, "tests.tenants.asgi:application", 0, **site(postgres)) as server,
        connected(server, "acme", sessions["bolt"]) as client,
    ):
        assert receive(client) == ""


def test_log_ins_are_checked_in_the_schema_of_their_customer(
    postgres: PostgresServer, sessions: dict[str, str]
) -> None:
    with (
        Uvicorn(ROOT, "tests.tenants.asgi:application", 0, **site(postgres, **KEPT)) as server,
        connected(server, "acme", sessions["acme"]) as acme,
        connected(server, "bolt", sessions["bolt"]) as bolt,
    ):
        receive(acme), receive(bolt)
        postgres.ask("UPDATE bolt.auth_user SET is_active = false")
        try:
            with pytest.raises(ConnectionClosed):
                bolt.recv(SECONDS)
            assert bolt.close_code == 4401
        finally:
            postgres.ask("UPDATE bolt.auth_user SET is_active = true")
        acme.send("1")
        names = ["user of acme"]
        assert receive(acme) == [names, names]


def test_pages_do_not_use_up_the_connections_of_the_database() -> None:
    with (
        PostgresServer("max_connections=15") as postgres,
        Uvicorn(ROOT, "tests.tenants.asgi:application", 0, **site(postgres, **KEPT)) as server,
    ):
        found = []
        for _ in range(60):
            with urlopen(f"http://127.0.0.1:{server.port}/query/", timeout=SECONDS) as answer:
                found.append(int(answer.read()))
    assert max(found) <= 2  # the one that asks, and one that has yet to notice its end
