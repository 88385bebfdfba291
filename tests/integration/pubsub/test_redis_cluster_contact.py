"""What a node of a cluster says of itself: whether it may have been replaced."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from django_ws.pubsub.backends.redis_cluster.contact import (
    ASK_ALL,
    ASK_STATE,
    MARGIN_SECONDS,
    NODE_TIMEOUT,
    Contact,
    LostContact,
)

NOW = 1_700_000_000
CLOCK = [b"%d" % NOW, b"500000"]
CONFIG = [b"cluster-node-timeout", b"4000"]
SURE = 2 + MARGIN_SECONDS


def node(name: str, flags: str, ago: float, slots: str = "0-100", link: str = "connected") -> str:
    """A line of CLUSTER NODES: heard of so many seconds ago."""
    pong = round((NOW + 0.5 - ago) * 1000)
    return f"{name} 10.0.0.1:7000@17000,host {flags} - 0 {pong} 1 {link} {slots}".rstrip()


MYSELF = node("a", "myself,master", 0)


def contact(*lines: str, config: Any = CONFIG) -> Contact:
    nodes = "\n".join(lines) + "\n"
    return Contact().after(time.monotonic(), [CLOCK, nodes.encode(), config])


def left(contact: Contact) -> float:
    """For how long it may be relied upon, from now on."""
    return contact.until - time.monotonic()


def test_nothing_is_known_before_it_is_asked() -> None:
    nobody = Contact()
    assert not nobody.is_recent()
    with pytest.raises(LostContact, match="lost contact with the others"):
        nobody.require()
    assert nobody.questions() == ASK_ALL
    assert nobody.doubt_seconds > NODE_TIMEOUT


def test_a_node_that_hears_of_half_of_the_others_may_be_relied_upon() -> None:
    found = contact(
        MYSELF,
        node("b", "master", 1.0),
        node("c", "master", 3.0),
        node("d", "master", 100.0),
        node("e", "master,fail", 0.0),
        node("f", "slave", 0.0, slots=""),
        node("g", "master", 0.0, slots=""),  # which has no vote
        node("h", "master", 0.0, slots="[7-<-b]"),  # nor has this one
    )
    assert found.sure_seconds == SURE
    assert left(found) == pytest.approx(SURE - 3.0, abs=0.5)  # two of the four others
    assert found.is_recent()
    found.require()
    assert found.questions() == ASK_STATE
    assert found.doubt_seconds > 2 * SURE


@pytest.mark.parametrize("flags", ["master,fail?", "master,fail"])
def test_a_node_that_takes_too_many_for_dead_has_lost_contact(flags: str) -> None:
    found = contact(MYSELF, node("b", flags, 0.0), node("c", flags, 0.0))
    with pytest.raises(LostContact):
        found.require()


def test_a_node_that_was_frozen_has_lost_contact_until_it_hears_of_the_others() -> None:
    others = [("b", "master"), ("c", "master")]
    found = contact(MYSELF, *(node(*other, 34.0) for other in others))
    with pytest.raises(LostContact):
        found.require()
    contact(MYSELF, node(*others[0], 34.0), node(*others[1], 0.1)).require()


def test_one_of_two_masters_cannot_be_replaced() -> None:
    contact(MYSELF).require()
    contact(MYSELF, node("b", "master,fail", 1000.0)).require()


def test_a_replica_is_not_the_right_node() -> None:
    others = [node("b", "master", 0.0), node("c", "master", 0.0)]
    for myself in (
        node("a", "myself,slave", 0.0, slots=""),
        node("a", "myself,master", 0.0, slots=""),
    ):
        with pytest.raises(LostContact):
            contact(myself, *others).require()


def test_who_was_never_heard_of_counts_while_it_is_connected() -> None:
    def nodes(link: str) -> list[str]:
        line = node("b", "master", NOW + 0.5, link=link)
        assert " - 0 0 1 " in line
        return [MYSELF, line, line.replace("b", "c", 1)]

    contact(*nodes("connected")).require()
    with pytest.raises(LostContact):
        contact(*nodes("disconnected")).require()


@pytest.mark.parametrize("nodes", [NoPermissionError("no"), b"", b"OK", b"+\n", None, 7])
def test_a_node_that_does_not_tell_is_relied_upon(nodes: Any) -> None:
    found = Contact().after(time.monotonic(), [CLOCK, nodes, CONFIG])
    assert found.until == math.inf
    found.require()


def test_without_a_clock_it_is_relied_upon() -> None:
    found = Contact().after(time.monotonic(), [ResponseError("no"), MYSELF.encode(), CONFIG])
    assert found.until == math.inf


@pytest.mark.parametrize("config", [NoPermissionError("no"), [], {}, None])
def test_a_node_that_does_not_tell_its_time_out_has_the_usual_one(config: Any) -> None:
    found = contact(MYSELF, config=config)
    assert found.sure_seconds == NODE_TIMEOUT / 2 + MARGIN_SECONDS


def test_the_time_out_is_asked_for_once() -> None:
    first = contact(MYSELF)
    second = first.after(time.monotonic(), [CLOCK, MYSELF])  # as with decode_responses
    assert second.sure_seconds == SURE
    second.require()
