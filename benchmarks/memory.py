"""Memory of an idle connection, after one message each way."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from statistics import median

from benchmarks import frames
from benchmarks.clients import one_message_each, opened
from benchmarks.findings import Finding, unsteady
from benchmarks.rounds import Plan
from benchmarks.server import Server, serve

_WARM_UP = 100


def bytes_each(start: Callable[[], AbstractContextManager[Server]], connections: int) -> float:
    """Growth for each connection, in a fresh process that has met a few visitors before."""
    with start() as server:
        with opened(server, frames.JSON.path, _WARM_UP) as clients:
            one_message_each(clients, frames.JSON)
        before = server.memory()
        with opened(server, frames.JSON.path, connections) as clients:
            one_message_each(clients, frames.JSON)
            return (server.memory() - before) / connections


def measure(names: Sequence[str], plan: Plan) -> list[Finding]:
    count = plan.memory_connections
    rounds: dict[str, Sequence[float]] = {}
    for _ in range(plan.rounds):
        for name in names:
            rounds[name] = [*rounds.get(name, ()), bytes_each(partial(serve, name), count) / 1024]
    print(f"\nmemory of an idle connection ({count:,} connections, KiB each)")
    findings = []
    for name, sizes in rounds.items():
        print(f"  {name:<10} {median(sizes):>6.2f}  rounds " + " ".join(f"{s:.2f}" for s in sizes))
        if name != "bare":
            more = [own - bare for own, bare in zip(sizes, rounds["bare"], strict=True)]
            findings.append(
                Finding(
                    f"memory of an idle connection: {name} - bare",
                    more,
                    4.0 if name == "django_ws" else None,
                    unit="KiB",
                    at_most=True,
                    doubt=unsteady({"bare": rounds["bare"], name: sizes}),
                )
            )
            print(findings[-1].details(), flush=True)
    return findings
