"""`runws` with its fast protocol, beside the bare application on plain uvicorn."""

import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import frames
from benchmarks.audience import TEXT, Audience, Post
from benchmarks.clients import opened_at
from benchmarks.echo import echoing
from benchmarks.fanout import in_one_topic
from benchmarks.findings import Finding, unsteady
from benchmarks.load import Load
from benchmarks.memory import bytes_each
from benchmarks.redis_server import Redis
from benchmarks.rounds import Plan, compare_pairs
from benchmarks.runws import runws
from benchmarks.server import Server, serve

_PAIR = ("runws", "bare")
_NO_PINGS = "--ws-ping-interval=0"  # the server's own, which the clients here do not answer
_BURST = 20
_KIBIBYTE = json.dumps(
    {**json.loads(TEXT), "items": [{"id": n, "name": f"item {n}", "ok": n % 2} for n in range(28)]},
    separators=(",", ":"),
)


def _worker_of(pid: int) -> int:
    """The one worker of a parent."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        time.sleep(0.02)
    raise RuntimeError("the worker did not start")


@contextmanager
def _runws(*options: str) -> Iterator[Server]:
    """With the one worker's figures."""
    with runws("runws", *options) as parent:
        yield replace(parent, pid=_worker_of(parent.pid))


@contextmanager
def _in_bursts(server: Server, redis: Redis, count: int) -> Iterator[Callable[[float], Load]]:
    with opened_at(server, ["/topics/room/"] * count) as clients:
        people = Audience(redis, server, clients)
        with people.epoll:
            post = Post(server.name, ["room"], burst=_BURST)
            redis.wait_for_subscribers(post.channels)
            yield partial(people.run, post)


class _Inflating(Audience):
    """One of them inflates its frame; all others, which have heard the same, must get the same."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.inflated = zlib.decompressobj(wbits=-15)
        self.text = b""

    def expected(self, post: Post) -> bytes:
        [text] = post.texts(self.number)
        self.text = text.encode()
        return b""  # until the first one has it

    def read(self, fileno: int) -> int:
        if self.frame:
            return super().read(fileno)
        data = self.partial.pop(fileno, b"") + self.reads[fileno](4096)
        head, size = (2, data[1]) if data[1] < 126 else (4, struct.unpack_from("!H", data, 2)[0])
        if len(data) < head + size:
            self.partial[fileno] = data
            return 0
        payload = data[head:] + b"\x00\x00\xff\xff"
        if data[0] != 0xC1 or self.inflated.decompress(payload) != self.text:
            raise RuntimeError(f"number {self.number} expected, got {data!r}")
        self.frame = data
        self.missing.remove(fileno)
        return 1


@contextmanager
def _deflated(server: Server, redis: Redis, count: int) -> Iterator[Callable[[float], Load]]:
    with opened_at(server, ["/topics/room/"] * count, deflate=True) as clients:
        people = _Inflating(redis, server, clients)
        with people.epoll:
            post = Post(server.name, ["room"], _KIBIBYTE)
            redis.wait_for_subscribers(post.channels)
            yield partial(people.run, post)


def memory(plan: Plan) -> Finding:
    count = plan.memory_connections
    starts: dict[str, Callable[[], AbstractContextManager[Server]]] = {
        "bare": partial(serve, "bare"),
        "runws": _runws,
    }
    rounds: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(plan.rounds):
        for name, start in starts.items():
            rounds[name].append(bytes_each(start, count) / 1024)
    print(f"\nmemory of an idle connection ({count:,} connections, KiB each)")
    for name, sizes in rounds.items():
        print(f"  {name:<10} {median(sizes):>6.2f}  rounds " + " ".join(f"{s:.2f}" for s in sizes))
    more = [own - bare for own, bare in zip(rounds["runws"], rounds["bare"], strict=True)]
    title = "memory of an idle connection: runws - bare"
    return Finding(title, more, 6.0, unit="KiB", at_most=True, doubt=unsteady({**rounds}))


def measure(redis: Redis, plan: Plan) -> list[Finding]:
    count = plan.subscribers
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serve("bare", _NO_PINGS)),
            stack.enter_context(_runws(_NO_PINGS)),
        ]
        findings = compare_pairs(
            "text echo, 100 at once",
            servers,
            partial(echoing, message=frames.TEXT, connections=100),
            plan,
            {_PAIR: 1.3},
        )
        findings += compare_pairs(
            f"{count:,} subscribers",
            servers,
            partial(in_one_topic, redis=redis, count=count),
            plan,
            {_PAIR: 1.8},
        )
        findings += compare_pairs(
            f"{count:,} subscribers, bursts of {_BURST}",
            servers,
            partial(_in_bursts, redis=redis, count=count),
            plan,
            {_PAIR: None},
            {"runws": 0.5},
        )
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serve("bare", _NO_PINGS, "--ws-per-message-deflate=true")),
            stack.enter_context(_runws(_NO_PINGS, "--compression")),
        ]
        findings += compare_pairs(
            f"{count:,} subscribers, {len(_KIBIBYTE):,} bytes deflated",
            servers,
            partial(_deflated, redis=redis, count=count),
            plan,
            {_PAIR: 5.0},
        )
    findings.append(memory(plan))
    return findings
