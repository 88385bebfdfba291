"""What LOCATION means for a Redis Cluster, its map of slots, and what a refusal means."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import (
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import channel_of
from django_ws.pubsub.backends.redis_cluster.backend import ClusterBackend, ClusterPublisher
from django_ws.pubsub.backends.redis_cluster.contact import LostContact
from django_ws.pubsub.backends.redis_cluster.delivery import MAX_REDIRECTIONS, Delivery, Message
from django_ws.pubsub.backends.redis_cluster.nodes import Nodes
from django_ws.pubsub.backends.redis_cluster.slots import Slots

A, B, C = ("10.0.0.1", 7000), ("10.0.0.2", 7001), ("10.0.0.3", 7002)
ANSWER = [
    [0, 8191, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.3", 7002, b"id", [b"hostname", b"c"]]],
    [8192, 16383, ["10.0.0.2", 7001, "id"]],
]
TOPICS = ["low 2", "high 2"]
LOW, HIGH = (channel_of("", topic) for topic in TOPICS)


@pytest.fixture
def slots() -> Slots:
    slots = Slots([A])
    slots.learn(A, ANSWER)
    return slots


# LOCATION and OPTIONS


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ([], "give a list of its nodes"),
        ("redis://10.0.0.1", "give a list of its nodes"),
        ({"host": "10.0.0.1"}, "give a list of its nodes"),
        (["redis://10.0.0.1", "http://s3cret@10.0.0.2"], r"LOCATION\[1\]: not the URL"),
        (["unix:///s3cret"], r"LOCATION\[0\]: a node is reached by TCP"),
        (["redis://:s3cret@"], r"LOCATION\[0\]: a node is reached by TCP"),
        (["redis://10.0.0.1:s3cret"], r"LOCATION\[0\]: not the URL"),
        (["redis://me:12#s3cret@10.0.0.1"], r"LOCATION\[0\] has '#', or '@' behind the host"),
        (["redis://me:12/s3cret@10.0.0.1"], r"LOCATION\[0\] has '#', or '@' behind the host"),
        (["redis://10.0.0.1/3"], r"LOCATION\[0\]: a Redis Cluster has database 0 alone"),
        (["redis://10.0.0.1", 7], r"LOCATION\[1\]: give"),
        ([("10.0.0.1",)], r"LOCATION\[0\]: give"),
        ([("10.0.0.1", "7000")], r"LOCATION\[0\]: give"),
        ([("10.0.0.1", 70000)], r"LOCATION\[0\]: give"),
        ([("10.0.0.1", 7000), 7], r"LOCATION\[1\]: give"),
        (["redis://:s3cret@10.0.0.1", "redis://:other@10.0.0.2"], "Give the same in each URL"),
        (["rediss://10.0.0.1", ("10.0.0.2", 7000)], "Give the same in each URL"),
    ],
)
@pytest.mark.parametrize("kind", [ClusterBackend, ClusterPublisher])
def test_a_wrong_location_is_refused_without_showing_passwords(
    kind: Any, location: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as failure:
        kind(location, "", {})
    assert "s3cret" not in str(failure.value)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match=r"OPTIONS for Redis Cluster .*'colour'"):
        Nodes([A], {"colour": "red"})


def test_urls_and_options_reach_the_connections() -> None:
    location = [
        "rediss://me:s3cret@10.0.0.1?socket_connect_timeout=3",
        "rediss://me:s3cret@h:7001?socket_connect_timeout=3",
    ]
    nodes = Nodes(location, {"client_name": "site", "ssl_cert_reqs": "none", "max_connections": 7})
    assert nodes.server == "Redis Cluster (10.0.0.1:6379, h:7001)"
    assert nodes.max_connections == 7
    connection = nodes.pool(B).make_connection()
    assert isinstance(connection, redis.asyncio.SSLConnection)
    sync_connection = nodes.sync_pool(B).make_connection()
    assert isinstance(sync_connection, redis.SSLConnection)
    for each in (connection, sync_connection):
        assert (each.host, each.port) == B
        assert (each.username, each.password, each.client_name) == ("me", "s3cret", "site")
        assert each.socket_connect_timeout == 3


def test_pairs_with_tls() -> None:
    nodes = Nodes([A, B], {"ssl": True})
    assert isinstance(nodes.pool(A).make_connection(), redis.asyncio.SSLConnection)


# The map


def test_the_owner_is_the_master_of_the_slot(slots: Slots) -> None:
    assert (key_slot(LOW) < 8192, key_slot(HIGH) < 8192) == (True, False)
    assert (slots.node_of(LOW), slots.node_of(HIGH)) == (A, B)
    assert not slots.is_stale


def test_a_channel_has_no_owner_before_the_map_is_learned_and_where_it_has_a_hole() -> None:
    slots = Slots([A])
    assert slots.node_of(LOW) is None
    slots.learn(A, ANSWER[:1])
    assert (slots.node_of(LOW), slots.node_of(HIGH)) == (A, None)


def test_a_node_without_a_host_is_the_one_that_was_asked() -> None:
    slots = Slots([A])
    slots.learn(C, [[0, 8191, [b"", 7009, b"id"]], [8192, 16383, [None, 7010, b"id"]]])
    assert (slots.node_of(LOW), slots.node_of(HIGH)) == ((C[0], 7009), (C[0], 7010))
    slots.moved(B, MovedError(f"{key_slot(LOW)} :7011"))
    assert slots.node_of(LOW) == (B[0], 7011)


def test_addresses_are_remapped_everywhere() -> None:
    slots = Slots([A], lambda node: ("proxy", node[1]))
    slots.learn(A, ANSWER)
    assert slots.node_of(LOW) == ("proxy", 7000)
    slots.moved(A, MovedError(f"{key_slot(LOW)} 10.0.0.2:7001"))
    assert slots.node_of(LOW) == ("proxy", 7001)


def test_who_is_lost_is_asked_last(slots: Slots) -> None:
    assert sorted(slots.candidates()) == [A, B, C]
    slots.lost(A)
    assert slots.is_stale
    assert slots.candidates()[-1] == A
    slots.learn(B, ANSWER)
    assert {slots.candidates()[-1] for _ in range(100)} == {A}  # it is not known to be back
    slots.learn(A, ANSWER)
    assert {tuple(slots.candidates()) for _ in range(100)} > {(A, B, C), (C, B, A)}


def test_without_sharded_pubsub_one_node_serves_all_until_it_is_lost(slots: Slots) -> None:
    slots.is_sharded = False
    first = slots.node_of(LOW)
    assert first in (A, B)
    assert slots.node_of(HIGH) == first
    slots.lost(C)
    assert slots.node_of(LOW) == first
    assert first is not None
    slots.lost(first)
    second = slots.node_of(LOW)
    assert {first, second} == {A, B}
    assert second is not None
    slots.learn(A, ANSWER)
    assert slots.is_sharded  # asked anew: the servers may have been replaced
    slots.is_sharded = False
    assert slots.node_of(LOW) == second  # a new map moves nobody


def test_without_sharded_pubsub_and_any_master_nobody_serves() -> None:
    slots = Slots([A])
    slots.learn(A, [])
    slots.is_sharded = False
    assert slots.node_of(LOW) is None
    slots.learn(A, ANSWER[:1])
    slots.is_sharded = False
    slots.lost(A)
    assert slots.node_of(LOW) is None


# Refusals

MESSAGE = Message(0, LOW, b"data")


def delivery(slots: Slots) -> Delivery:
    delivery = Delivery(slots, "", [(TOPICS[0], b"data")])
    assert delivery.begin_round() == {A: [MESSAGE]}
    return delivery


@pytest.mark.parametrize("error", [ClusterDownError("down"), ReadOnlyError("replica")])
def test_what_passes_is_tried_again_after_a_wait_and_a_look_at_the_map(
    slots: Slots, error: Exception
) -> None:
    sending = delivery(slots)
    waits = []
    for _ in range(8):
        sending.refused(A, MESSAGE, error)
        sending.end_round()
        assert sending.needs_slots
        waits.append(sending.wait)
        assert sending.begin_round() == {A: [MESSAGE]}
    assert 0.02 < waits[0] < 0.06
    assert 0.4 < waits[-1] <= 1.0
    sending.end_round()
    assert sending.left == []


def test_a_moved_slot_is_followed_at_once_but_not_in_circles(slots: Slots) -> None:
    sending = delivery(slots)
    for target, other in [(B, A), (A, B)] * MAX_REDIRECTIONS:
        sending.refused(other, MESSAGE, MovedError(f"{key_slot(LOW)} {target[0]}:{target[1]}"))
        sending.end_round()
        if sending.wait:
            break
        assert not sending.needs_slots
        assert sending.begin_round() == {target: [MESSAGE]}
    else:
        pytest.fail("it never waited")
    assert sending.needs_slots


@pytest.mark.parametrize(
    "error", [NoPermissionError("no"), ResponseError("ERR wrong"), ResponseError("unknown command")]
)
def test_any_other_refusal_is_final(slots: Slots, error: Exception) -> None:
    slots.is_sharded = not str(error).startswith("unknown")
    sending = Delivery(slots, "", [(TOPICS[0], b"data")])
    ((node, _),) = sending.begin_round().items()
    sending.refused(node, MESSAGE, error)
    assert not sending.left
    with pytest.raises(BroadcastError, match=f"node {node[0]}:{node[1]}: {error}") as failure:
        sending.end()
    assert failure.value.__cause__ is error


def test_each_message_has_its_own_outcome(slots: Slots) -> None:
    sending = Delivery(slots, "", [(TOPICS[0], b"data"), (TOPICS[1], b"data")] * 2)
    batches = sending.begin_round()
    assert {node: [m.number for m in batch] for node, batch in batches.items()} == {
        A: [0, 2],
        B: [1, 3],
    }
    sending.taken(batches[A][0])
    sending.failed(A, batches[A], OSError("first"))  # the other one has no answer
    sending.refused(B, batches[B][0], NoPermissionError("second"))
    sending.taken(batches[B][1])
    with pytest.raises(BroadcastError) as failure:
        sending.end()
    assert {n: error.reason for n, error in failure.value.errors.items()} == {
        1: "second",
        2: "first",
    }
    assert failure.value.reason == "second"  # the first message's


def test_one_that_is_refused_says_nothing_of_the_map(slots: Slots) -> None:
    sending = delivery(slots)
    sending.refused(A, MESSAGE, NoPermissionError("no"))
    assert not slots.is_stale


def test_a_node_that_failed_is_asked_last(slots: Slots) -> None:
    sending = delivery(slots)
    sending.failed(A, [MESSAGE], OSError("reset"))
    assert slots.is_stale
    assert slots.candidates()[-1] == A


def test_a_node_that_may_have_been_replaced_is_not_sent_to(slots: Slots) -> None:
    sending = delivery(slots)
    sending.adrift(A, [MESSAGE], LostContact())
    sending.end_round()
    assert sending.needs_slots
    assert sending.wait
    assert slots.candidates()[-1] == A
    with pytest.raises(BroadcastError, match=r"node 10\.0\.0\.1:7000: the node has lost contact"):
        sending.end()


def test_what_such_a_node_has_taken_is_an_error(slots: Slots) -> None:
    sending = Delivery(slots, "", [(TOPICS[0], b"1"), (TOPICS[0], b"2"), (TOPICS[0], b"3")])
    ((node, batch),) = sending.begin_round().items()
    sending.taken(batch[0])
    sending.refused(node, batch[1], NoPermissionError("no"))
    sending.refused(node, batch[2], ClusterDownError("down"))
    sending.doubted(node, batch, LostContact())
    assert sending.left == [batch[2]]
    sending.end_round()
    ((node, left),) = sending.begin_round().items()
    sending.taken(left[0])
    with pytest.raises(BroadcastError) as failure:
        sending.end()
    assert {n: error.reason for n, error in failure.value.errors.items()} == {
        0: str(LostContact()),
        1: "no",
    }


def test_an_unreachable_node_is_tried_twice(slots: Slots) -> None:
    sending = delivery(slots)
    sending.unreachable(A, [MESSAGE], OSError("refused"))
    sending.end_round()
    assert sending.needs_slots
    slots.learn(B, ANSWER)
    assert sending.begin_round() == {A: [MESSAGE]}
    sending.unreachable(A, [MESSAGE], OSError("refused again"))
    assert not sending.left
    with pytest.raises(BroadcastError, match="refused again"):
        sending.end()


def test_giving_up_tells_the_last_refusal(slots: Slots) -> None:
    with pytest.raises(BroadcastError) as failure:
        delivery(slots).end()
    assert str(failure.value) == "broadcast failed at Redis Cluster: not taken within 5 s"
    sending = delivery(slots)
    sending.refused(A, MESSAGE, ClusterDownError("down"))
    with pytest.raises(BroadcastError, match=r"node 10\.0\.0\.1:7000: down"):
        sending.end()


def test_an_older_server_gets_plain_pubsub(slots: Slots) -> None:
    sending = delivery(slots)
    for _ in range(2):
        sending.refused(A, MESSAGE, ResponseError("unknown command 'SPUBLISH', with args"))
    sending.end_round()
    ((node, batch),) = sending.begin_round().items()
    assert node in (A, B)
    assert sending.commands(batch) == [("PUBLISH", LOW, b"data")] * 2
