"""`python -m benchmarks [SCENARIO ...] [--quick]`: speed, memory, storms and restarts."""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import balance, churn, connect, echo, fanout, fast, memory, pings, restart, storm
from benchmarks.findings import Finding
from benchmarks.redis_server import redis_server
from benchmarks.rounds import QUICK, Plan
from benchmarks.server import APPLICATIONS, pin_generator, serve

_SCENARIOS = (
    "echo",
    "connect",
    "memory",
    "pings",
    "fanout",
    "fast",
    "storm",
    "restart",
    "balance",
    "churn",
)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="|".join(_SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="a rough look in about two minutes")
    arguments = parser.parse_args()
    arguments.scenarios = arguments.scenarios or list(_SCENARIOS)
    for scenario in arguments.scenarios:
        if scenario not in _SCENARIOS:
            parser.error(f"unknown scenario {scenario!r}: choose from {', '.join(_SCENARIOS)}")
    return arguments


def _prepare(folder: str) -> None:
    """A database with Django's tables, many open files, and a core for the generator alone."""
    os.environ["BENCHMARK_DATABASE"] = str(Path(folder) / "db.sqlite3")
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.project.settings"
    subprocess.run([sys.executable, "-m", "django", "migrate", "--verbosity=0"], check=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pin_generator()


def _run(scenarios: list[str], plan: Plan) -> list[Finding]:
    findings: list[Finding] = []
    with ExitStack() as stack:
        if "echo" in scenarios or "connect" in scenarios:
            servers = [stack.enter_context(serve(name)) for name in APPLICATIONS]
        if "echo" in scenarios:
            findings += echo.measure(servers, plan)
        if "connect" in scenarios:
            findings += connect.measure(servers, plan)
    if "memory" in scenarios:
        findings += memory.measure(list(APPLICATIONS), plan)
    if "pings" in scenarios:
        findings += pings.measure(["bare", "django_ws"], plan)
    if "fanout" in scenarios:
        with redis_server() as redis:
            findings += fanout.measure(redis, plan)
    if "fast" in scenarios:
        with redis_server() as redis:
            findings += fast.measure(redis, plan)
    if "storm" in scenarios:
        findings += storm.measure(plan)
    if "restart" in scenarios:
        findings += restart.measure(plan)
    if "balance" in scenarios:
        findings += balance.measure(plan)
    if "churn" in scenarios:
        findings += churn.measure(plan)
    return findings


def main() -> None:
    arguments = _parse()
    # An exit like any other, so that the servers are ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        _prepare(folder)
        findings = _run(arguments.scenarios, QUICK if arguments.quick else Plan())
    print(f"\n{'median of the rounds':<58} {'':>9} {'':<4} {'target':<8} verdict")
    for finding in findings:
        print(finding.line())
    print(f"({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
