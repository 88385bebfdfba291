"""The server that is attacked: one for all tests that only knock at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection

from tests.support.fuzzer import SITE
from tests.support.servers import DEFAULT, KINDS, Server


@pytest.fixture(scope="session")
def attacked(django_db_setup: None) -> Iterator[Server]:
    """With the database of the tests."""
    environment = {
        "DJANGO_SETTINGS_MODULE": SITE,
        "DJANGO_WS_TEST_DATABASE": str(connection.settings_dict["NAME"]),
    }
    server = Server(KINDS[DEFAULT], **environment)
    yield server
    server.stop()
    errors = [event for event in server.events(None) if event.get("level") == "ERROR"]
    assert errors == []
    assert "Traceback" not in server.printed
