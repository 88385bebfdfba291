"""Hands broadcasts to the nodes of a Redis Cluster, and repeats what a node refused.

A message is sent again only where it was certainly not taken: its node could not be reached at
all, or has refused it. So no broadcast arrives twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    TryAgainError,
)

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.backoff import backoff
from django_ws.pubsub.backends.base import PUBLISH_SECONDS, channel_of, error_of
from django_ws.pubsub.backends.redis.location import cause
from django_ws.pubsub.backends.redis_cluster.nodes import name_of
from django_ws.pubsub.backends.redis_cluster.slots import Node, Slots


class Message(NamedTuple):
    number: int  # among all of the call, from 0
    channel: bytes
    data: bytes


FIRST_WAIT = 0.05  # seconds
LONGEST_WAIT = 1.0
MAX_REDIRECTIONS = 3  # in a row, without a pause

NO_NODE = "no node serves the topic's slot"

# The cluster is about to change, or to come back: it may take the same a little later.
PASSING = (AskError, ClusterDownError, ReadOnlyError, TryAgainError)


def is_unknown_command(error: Exception) -> bool:
    """The server is older than the command."""
    return "unknown command" in str(error).lower()


class Delivery:
    """One call of publish: what is left of it, and what came in between."""

    def __init__(
        self,
        slots: Slots,
        site: str,
        messages: Sequence[tuple[str, bytes]],
        head: bytes = b"",
        seconds: float = PUBLISH_SECONDS,
    ) -> None:
        self.left = [
            Message(number, channel_of(site, topic), head + data)
            for number, (topic, data) in enumerate(messages)
        ]
        self.wait = 0.0  # seconds before the next round
        self._slots = slots
        self._rounds = 0
        self._is_sharded = True
        self._is_redirected = False
        self._unreachable: set[Node] = set()
        self._unanswered: set[int] = set()  # messages of this round
        self._errors: dict[int, BroadcastError] = {}
        self.too_late = TimeoutError(f"not taken within {seconds:g} s")
        self._refusal: tuple[str, Exception] = ("Redis Cluster", self.too_late)

    @property
    def needs_slots(self) -> bool:
        """Not after a MOVED: that is newer than what another node may tell."""
        return self._slots.is_stale and not self._is_redirected

    def begin_round(self) -> dict[Node, list[Message]]:
        """What is left, by node. For each: ``taken``, ``refused``, or its node's failure."""
        batches: dict[Node, list[Message]] = {}
        left, self.left = self.left, []
        self.wait = 0.0
        self._is_redirected = False
        self._is_sharded = self._slots.is_sharded
        for message in left:
            if node := self._slots.node_of(message.channel):
                batches.setdefault(node, []).append(message)
                self._unanswered.add(message.number)
            else:
                self._try_later(message, "Redis Cluster", ClusterDownError(NO_NODE))
        return batches

    def end_round(self) -> None:
        self._rounds += 1

    def end(self) -> None:
        """There is no time, or nobody, or nothing left. Raises ``BroadcastError`` for what was
        not taken.
        """
        for number in self._unanswered.union(message.number for message in self.left):
            self._errors[number] = _error(*self._refusal)
        if self._errors:
            raise error_of(self._errors)

    def commands(self, batch: list[Message]) -> list[tuple[str, bytes, bytes]]:
        command = "SPUBLISH" if self._is_sharded else "PUBLISH"
        return [(command, message.channel, message.data) for message in batch]

    def taken(self, message: Message) -> None:
        self._unanswered.discard(message.number)

    def refused(self, node: Node, message: Message, error: Exception) -> None:
        """The node has answered with an error."""
        self._unanswered.discard(message.number)
        if isinstance(error, MovedError) and self._rounds < MAX_REDIRECTIONS:
            self._slots.moved(node, error)
            self._is_redirected = True
            self.left.append(message)
        elif isinstance(error, PASSING):
            self._try_later(message, name_of(node), error)
        elif is_unknown_command(error) and self._is_sharded:
            self._slots.is_sharded = False
            self.left.append(message)
        else:
            self._errors[message.number] = _error(name_of(node), error)

    def unreachable(self, node: Node, batch: list[Message], error: Exception) -> None:
        """No connection: nothing was sent. It is tried twice, with fresh slots in between."""
        if node in self._unreachable:
            self.failed(node, batch, error)
            return
        self._slots.lost(node)
        self._unreachable.add(node)
        self._unanswered.difference_update(message.number for message in batch)
        self.left += batch

    def failed(self, node: Node, batch: list[Message], error: Exception) -> None:
        """Nobody knows how much was taken of what has no answer yet."""
        self._slots.lost(node)
        for message in batch:
            if message.number in self._unanswered:
                self._unanswered.discard(message.number)
                self._errors[message.number] = _error(name_of(node), error)

    def adrift(self, node: Node, batch: list[Message], error: Exception) -> None:
        """Nothing was sent: the node may have been replaced, or would be soon."""
        self._slots.lost(node)
        for message in batch:
            self._unanswered.discard(message.number)
            self._try_later(message, name_of(node), error)

    def doubted(self, node: Node, batch: list[Message], error: Exception) -> None:
        """What the node has taken may have reached nobody."""
        self._slots.lost(node)
        for message in batch:
            if message.number not in self._errors and message not in self.left:
                self._errors[message.number] = _error(name_of(node), error)

    def _try_later(self, message: Message, server: str, error: Exception) -> None:
        self._slots.is_stale = True
        self._refusal = server, error
        self.left.append(message)
        self.wait = backoff(self._rounds, FIRST_WAIT, LONGEST_WAIT)

    def no_slots(self, node: Node, error: Exception) -> None:
        """The node did not tell which slots are whose."""
        self._refusal = name_of(node), error


def _error(server: str, reason: Exception) -> BroadcastError:
    error = BroadcastError("broadcast", server, cause(reason))
    error.__cause__ = reason
    return error
