"""Interleaved rounds: every server gets a turn in each, so that a machine's moods hit all alike."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.findings import Finding, paired, print_loads, unsteady
from benchmarks.load import Load
from benchmarks.server import Server, Workers

# A function that puts a server under load for so many seconds, while its context lasts.
S = TypeVar("S", Server, Workers)
Prepare = Callable[[S], AbstractContextManager[Callable[[float], Load]]]


@dataclass(frozen=True)
class Plan:
    """How long to measure. ``seconds`` is one server's time in one round, cut into ``slices``."""

    rounds: int = 9
    seconds: float = 1.0
    slices: int = 4
    attempts: int = 3
    memory_connections: int = 5_000
    ping_connections: int = 10_000
    ping_seconds: float = 5.0
    subscribers: int = 1_000  # of one topic
    crowd: int = 5_000  # of one topic, in two processes
    topics: int = 1_000  # with ten subscribers each
    storm: int = 5_000  # handshakes
    # A second. The lower one is for machines that cannot do the other.
    storm_rates: tuple[float, ...] = (2_000.0, 500.0)
    storm_rounds: int = 3
    flood: int = 10_000  # handshakes at once
    restart_sockets: int = 2_000
    restart_messages: float = 200.0  # a second
    restart_drain: float = 10.0  # seconds
    balance_sockets: int = 4_000
    churn: int = 100_000  # connections that come and go


QUICK = Plan(
    *(3, 0.3, 2, 1, 500, 1_000, 1.0, 1_000, 1_000, 100),
    storm=2_000,
    storm_rounds=1,
    flood=2_000,
    restart_sockets=400,
    restart_drain=3.0,
    balance_sockets=600,
    churn=5_000,
)


def _round(servers: Sequence[S], prepare: Prepare[S], plan: Plan) -> dict[str, Load]:
    """One round: short slices forth and back, so that even a change within it is shared."""
    found: dict[str, Load] = {}
    with ExitStack() as stack:
        loads = {server.name: stack.enter_context(prepare(server)) for server in servers}
        for load in loads.values():
            load(0.05)
        for turn in range(plan.slices):
            for name in list(loads)[:: -1 if turn % 2 else 1]:
                part = loads[name](plan.seconds / plan.slices)
                found[name] = found[name] + part if name in found else part
    return found


def compare(
    title: str,
    servers: Sequence[Server],
    prepare: Prepare[Server],
    plan: Plan,
    targets: dict[str, float],
) -> list[Finding]:
    """django_ws against each other server; ``targets`` are its least ratios to them."""
    peers = [server.name for server in servers if server.name != "django_ws"]
    pairs = {("django_ws", peer): targets.get(peer) for peer in peers}
    return compare_pairs(title, servers, prepare, plan, {**pairs, ("channels", "bare"): None})


def compare_pairs(
    title: str,
    servers: Sequence[S],
    prepare: Prepare[S],
    plan: Plan,
    pairs: dict[tuple[str, str], float | None],
    costs: dict[str, float] | None = None,
) -> list[Finding]:
    """The ratios of the pairs, named as the servers, and what they should be at least;
    ``costs``: what one answer may cost a server, in microseconds of its processor.

    Where the rounds are too uneven for a verdict, all of them are run again, whatever they said.
    """
    for _ in range(plan.attempts):
        findings = _attempt(title, servers, prepare, plan, pairs, costs or {})
        if not any(finding.doubt for finding in findings if finding.target is not None):
            break
    return findings


def _attempt(
    title: str,
    servers: Sequence[S],
    prepare: Prepare[S],
    plan: Plan,
    pairs: dict[tuple[str, str], float | None],
    costs: dict[str, float],
) -> list[Finding]:
    rounds = [_round(servers, prepare, plan) for _ in range(plan.rounds)]
    loads = {server.name: [found[server.name] for found in rounds] for server in servers}
    print_loads(title, loads)
    findings = [paired(title, loads, pair, target) for pair, target in pairs.items()]
    for name, target in costs.items():
        each = [load.cost * 1e6 for load in loads[name]]
        doubt = unsteady({name: each})
        findings.append(Finding(f"{title}: {name}", each, target, "us", at_most=True, doubt=doubt))
    for finding in findings:
        print(finding.details(), flush=True)
    return findings
