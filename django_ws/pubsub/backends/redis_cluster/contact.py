"""Asks a node of a Redis Cluster whether it can still reach the others.

A node that is cut off from the others goes on taking SPUBLISH and SSUBSCRIBE, and a replica takes
its place. Its list of nodes tells: when it has last heard of each, and which it takes for dead. A
replica needs the votes of most masters. So a node that has just heard of half of the other ones
has not been replaced, at least not for longer than it has heard of them.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

from redis.exceptions import ClusterDownError

NODE_TIMEOUT = 15.0  # of the cluster, in seconds, where it does not tell
MARGIN_SECONDS = 3.0
CHECK_SECONDS = 1.0  # a publisher asks that often, at most

ASK_STATE = (("TIME",), ("CLUSTER", "NODES"))
ASK_ALL = (*ASK_STATE, ("CONFIG", "GET", "cluster-node-timeout"))


class LostContact(ClusterDownError):
    """The node may have been replaced, and would not know it."""

    def __init__(self) -> None:
        super().__init__("the node has lost contact with the others: it may have been replaced")


class Contact(NamedTuple):
    """What is known of one node. All times in seconds, by time.monotonic()."""

    asked_at: float = -math.inf
    until: float = -math.inf  # it may be relied upon
    sure_seconds: float = 0.0  # for how long at most, after it has heard of the others

    @property
    def doubt_seconds(self) -> float:
        """After this time, since its successor has been found, nobody relies on it any more."""
        return 2 * (self.sure_seconds or _sure_seconds(NODE_TIMEOUT)) + MARGIN_SECONDS

    def is_recent(self) -> bool:
        return time.monotonic() - self.asked_at <= CHECK_SECONDS

    def require(self) -> None:
        """Raises ``LostContact`` where it may not be relied upon now."""
        if time.monotonic() > self.until:
            raise LostContact

    def questions(self) -> tuple[tuple[str, ...], ...]:
        return ASK_STATE if self.sure_seconds else ASK_ALL

    def after(self, asked_at: float, answers: list[Any]) -> Contact:
        """What the node has answered, to questions that were sent then; each may be an error."""
        clock, nodes, *config = answers
        sure_seconds = self.sure_seconds or _sure_seconds(_node_timeout(config[0]))
        try:
            now = int(clock[0]) + int(clock[1]) / 1_000_000
            age = _silence(_text(nodes), now)
        except (LookupError, TypeError, ValueError):
            return Contact(asked_at, math.inf, sure_seconds)  # it does not tell
        return Contact(asked_at, asked_at + sure_seconds - age, sure_seconds)


def _sure_seconds(node_timeout: float) -> float:
    """Nodes that are well hear of each other at least twice in their time-out."""
    return node_timeout / 2 + MARGIN_SECONDS


def _node_timeout(config: Any) -> float:
    try:
        return int(config[1]) / 1000
    except (LookupError, TypeError, ValueError):
        return NODE_TIMEOUT  # it does not tell


def _silence(nodes: str, now: float) -> float:
    """For how many seconds the node has not heard of as many other masters as it needs."""
    ages: list[float] = []
    masters = 0
    knows_itself = is_master = False
    for line in nodes.splitlines():
        _, _, flags, _, _, pong_at, _, link, *slots = line.split()
        states = flags.split(",")
        knows_itself |= "myself" in states
        if "master" not in states or not any(slot[0] != "[" for slot in slots):
            continue  # it has no vote: it has no slots, or only such as are on their way
        masters += 1
        if "myself" in states:
            is_master = True
        elif "fail" in states or "fail?" in states:
            continue
        elif int(pong_at):
            ages.append(max(0.0, now - int(pong_at) / 1000))
        elif link == "connected":  # it does not tell, or was started a moment ago
            ages.append(0.0)
    if not knows_itself:
        raise ValueError("no list of nodes")
    # Where there are two, none can be replaced: the other's vote alone is no majority.
    needed = masters // 2 if masters > 2 else 0
    if not is_master or len(ages) < needed:
        return math.inf
    return sorted(ages)[needed - 1] if needed else 0.0


def _text(answer: Any) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)
