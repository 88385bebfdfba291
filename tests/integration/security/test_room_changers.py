"""Clients that change rooms as fast as they can, behind a real Redis with its default limits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from django_ws.pubsub import Publisher
from tests.support.fuzzer import SITE
from tests.support.raw import TEXT, RawClient, frame
from tests.support.redis_server import RedisServer
from tests.support.servers import FAST, KINDS, Server

SECONDS = 50.0  # the bound of a wait: only a broken test comes near it
CHANGES = 100_000  # Redis' answers to so many are more than it keeps for a listener: 32 MB
AT_ONCE = 10  # rooms that one message names: WS_MAX_TOPICS of the site


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        limits = server.ask("CONFIG GET", "client-output-buffer-limit")
        assert "pubsub 33554432 8388608 60" in str(limits)  # its default
        yield server


def changes(attacker: int, rooms: int) -> Iterator[bytes]:
    """Messages that together name so many rooms, none of them twice, as long as a name may be."""
    for begin in range(0, rooms, AT_ONCE):
        names = [f"{attacker}:{n}:".ljust(512, "x") for n in range(begin, begin + AT_ONCE)]
        yield frame(TEXT, json.dumps(names).encode())


@pytest.mark.parametrize("attackers", [1, 4])
def test_who_changes_rooms_quickly_takes_no_broadcast_from_others(
    redis_server: RedisServer, attackers: int
) -> None:
    with ExitStack() as stack:
        server = Server(KINDS[FAST], DJANGO_SETTINGS_MODULE=SITE, E2E_REDIS=redis_server.url)
        stack.callback(server.stop)
        witness = stack.enter_context(RawClient(server.port, b"/news/"))
        assert witness.status() == 101
        witness.patience(SECONDS)
        publisher = stack.enter_context(Publisher(redis_server.url))
        ended = threading.Event()

        def attack(number: int) -> None:
            with RawClient(server.port, b"/changing/") as client:
                assert client.status() == 101
                client.patience(SECONDS)
                pieces = changes(number, CHANGES // attackers)
                while piece := b"".join(each for each, _ in zip(pieces, range(20), strict=False)):
                    client.send(piece)
                # Answered when nearly all has been read, and handled.
                client.send_frame(9, b"all")
                while client.receive_frame() != (10, b"all"):
                    pass

        def attack_all() -> None:
            threads = [threading.Thread(target=attack, args=(n,)) for n in range(attackers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            ended.set()

        attacking = threading.Thread(target=attack_all)
        attacking.start()
        number = 0
        while not ended.wait(0.02):
            publisher.broadcast("news", number)
            number += 1
        publisher.broadcast("news", number)
        attacking.join()
        received: list[int] = []
        while not received or received[-1] != number:
            received.append(int(witness.receive_message()))
        assert received == list(range(number + 1))
        log = (redis_server.directory / "log").read_text()
        assert "Ready to accept connections" in log
        assert "output buffer limits" not in log
        assert [line for line in server.new_trouble() if "CACHES" not in line] == []
