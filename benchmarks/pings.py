"""The cost of idle connections that all called `start_ping()`, while no ping is due."""

import select
import time
from collections.abc import Sequence
from statistics import median

from benchmarks.clients import opened
from benchmarks.findings import Finding
from benchmarks.rounds import Plan
from benchmarks.server import serve

_ROUNDS = 7
_INTERVAL = 59
_FIRST_PING = b'{"ping"'


def _shares(name: str, plan: Plan) -> list[float]:
    """The server's share of its core in each window, in per cent."""
    # Protocol pings are the server's own, and left out.
    with serve(name, "--ws-ping-interval=0") as server:
        opening = time.monotonic()
        with opened(server, "/ping/", plan.ping_connections) as clients:
            shares = []
            time.sleep(1)
            for _ in range(_ROUNDS):
                start, used = time.monotonic(), server.cpu_seconds()
                time.sleep(plan.ping_seconds)
                used = server.cpu_seconds() - used
                shares.append(100 * used / (time.monotonic() - start))
            quiet = time.monotonic() - opening
            if quiet > _INTERVAL:
                raise RuntimeError(f"the windows ended after {quiet:.0f} s: pings were in them")
            if name == "django_ws":
                # The proof that the pings were on.
                arrived, _, _ = select.select(clients[:1], [], [], _INTERVAL - quiet + 10)
                if not arrived or _FIRST_PING not in clients[0].recv(4096):
                    raise RuntimeError("no ping arrived")
    return shares


def measure(names: Sequence[str], plan: Plan) -> list[Finding]:
    print(f"\n{plan.ping_connections:,} idle connections with start_ping(), between pings")
    findings = []
    for name in names:
        shares = _shares(name, plan)
        print(f"  {name:<10} {median(shares):.2f} % of a core")
        target = 1.0 if name == "django_ws" else None
        title = f"{plan.ping_connections:,} idle connections: {name}"
        findings.append(Finding(title, shares, target, unit="%", at_most=True))
        print(findings[-1].details(), flush=True)
    return findings
