"""Broadcasts through Redis to many subscribers, and what a subscription costs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from socket import socket
from statistics import median

from benchmarks import frames, publishing
from benchmarks.audience import Audience, Post, Stuck
from benchmarks.clients import one_message_each, opened_at
from benchmarks.findings import Finding, unsteady
from benchmarks.load import Load
from benchmarks.redis_server import Redis
from benchmarks.rounds import Plan, compare, compare_pairs
from benchmarks.server import APPLICATIONS, Server, Workers, serve

_TO_FILL = 8 * 1024 * 1024  # bytes; more than the kernel, the server and WS_SEND_BUFFER hold
_SMALLEST = 2304  # the kernel's least receive buffer
_STUCK_SHARE = 100  # one in so many never reads
_LEFT_IN_SERVER = 1024 * 1024  # bytes, WS_SEND_BUFFER: after these it drops
_MEMBERS = 10  # of each of many topics
_SPEAKERS = 50
_NO_PINGS = "--ws-ping-interval=0"  # the server's own, which the clients here do not answer
_WARM_UP = 100


@contextmanager
def audience(server: Server, redis: Redis, paths: Sequence[str]) -> Iterator[Audience]:
    with opened_at(server, paths) as clients:
        people = Audience(redis, server, clients)
        with people.epoll:
            yield people


@contextmanager
def in_one_topic(server: Server, redis: Redis, count: int) -> Iterator[Callable[[float], Load]]:
    with audience(server, redis, ["/topics/room/"] * count) as people:
        post = Post(server.name, ["room"])
        redis.wait_for_subscribers(post.channels)
        yield partial(people.run, post)


def one_topic(servers: Sequence[Server], redis: Redis, plan: Plan) -> list[Finding]:
    count = plan.subscribers
    return compare(
        f"{count:,} subscribers",
        servers,
        partial(in_one_topic, redis=redis, count=count),
        plan,
        {"bare": 0.95, "channels": 20.0},
    )


def two_processes(redis: Redis, plan: Plan) -> list[Finding]:
    """Twice the subscribers in two processes, beside one process. All on one core, so that two
    cost as much as one where nothing is lost between them.
    """
    with ExitStack() as stack:
        one, two, three = [stack.enter_context(serve("django_ws", _NO_PINGS)) for _ in range(3)]
        return compare_pairs(
            f"{plan.crowd:,} subscribers in two processes or half of them in one",
            [Workers("one", [one]), Workers("two", [two, three])],
            partial(_crowd, redis=redis, each=plan.crowd // 2),
            plan,
            {("two", "one"): 0.8},
        )


@contextmanager
def _crowd(workers: Workers, redis: Redis, each: int) -> Iterator[Callable[[float], Load]]:
    topic = f"of-{workers.name}"
    with ExitStack() as stack:
        clients: list[socket] = []
        for server in workers.servers:
            paths = [f"/topics/{topic}/"] * each
            clients += stack.enter_context(opened_at(server, paths))
        people = Audience(redis, workers, clients)
        stack.enter_context(people.epoll)
        post = Post("django_ws", [topic], processes=len(workers.servers))
        redis.wait_for_subscribers(post.channels, post.processes)
        yield partial(people.run, post)


def one_stuck_in_a_hundred(server: Server, redis: Redis, plan: Plan) -> list[Finding]:
    """django_ws with some who never read, beside itself without them: on the same sockets."""
    count = plan.subscribers - plan.subscribers // _STUCK_SHARE
    with _with_stuck(server, redis, plan) as (stuck, people):
        posts = {
            "all read": Post("django_ws", ["readers"]),
            "some do not": Post("django_ws", ["room"]),
        }
        people.run(posts["all read"], 0.01)  # the stuck ones' broadcasts came before this one
        held = stuck.in_kernel()
        print(
            f"\n{len(held)} clients that never read: {stuck.published:,} bytes were sent to each, "
            f"the kernel holds {max(held):,} at most"
        )
        if stuck.published - max(held) < _LEFT_IN_SERVER:
            raise RuntimeError("that is not stuck: nothing would have to wait for them")
        findings = compare_pairs(
            f"{count:,} subscribers who read, with {len(held)} who do not",
            [replace(server, name=name) for name in posts],
            lambda side: nullcontext(partial(people.run, posts[side.name])),
            plan,
            {("some do not", "all read"): 0.5},
        )
        if stuck.in_kernel() != held:
            raise RuntimeError("somebody has read after all")
    return findings


def bare_is_stopped(server: Server, redis: Redis, plan: Plan) -> None:
    """Why the bare application has no figure there."""
    with _with_stuck(server, redis, plan) as (stuck, people):
        people.next(Post("bare", ["room"]), patience=1.0)
        left = people.drain(patience=1.0)
        print(
            f"\nbare with {len(stuck.clients)} clients that never read: "
            f"{len(people.reads) - left} of {len(people.reads)} others got a broadcast"
        )


@contextmanager
def _with_stuck(server: Server, redis: Redis, plan: Plan) -> Iterator[tuple[Stuck, Audience]]:
    few = plan.subscribers // _STUCK_SHARE
    paths = ["/topics/readers,room/"] * (plan.subscribers - few)
    with (
        opened_at(server, ["/topics/stuck,room/"] * few, _SMALLEST) as clients,
        audience(server, redis, paths) as people,
    ):
        stuck = Stuck(redis, server, clients)
        stuck.fill("stuck", _TO_FILL)
        yield stuck, people


def many_topics(server: Server, redis: Redis, plan: Plan) -> list[Finding]:
    """Small topics in turn, beside one with the same members: the same sockets, deliveries."""
    names = [f"room-{number}" for number in range(plan.topics)]
    paths = [f"/topics/all,{name}/" for name in names for _ in range(_MEMBERS)]
    with audience(server, redis, paths) as people:
        posts = {"one topic": Post("django_ws", ["all"]), "many topics": Post("django_ws", names)}
        for post in posts.values():
            redis.wait_for_subscribers(post.channels)
        findings = compare_pairs(
            f"{len(paths):,} subscribers of one topic or {len(names):,}",
            [replace(server, name=name) for name in posts],
            lambda side: nullcontext(partial(people.run, posts[side.name])),
            plan,
            {("many topics", "one topic"): 0.7},
        )
        findings.append(_redis_connections(server, redis, len(paths)))
    return findings


def _redis_connections(server: Server, redis: Redis, sockets: int) -> Finding:
    """While some of the sockets broadcast, in threads and in the event loop, all at once."""
    message = frames.JSON
    with opened_at(server, ["/speak/"] * _SPEAKERS) as speakers:
        for speaker in speakers:
            speaker.sendall(frames.masked(message.text))
        for speaker in speakers:
            if not message.same(frames.unframed(speaker.recv(4096))):
                raise RuntimeError("the message was not answered")
        title = f"Redis connections with {sockets:,} sockets"
        return Finding(title, [redis.others()], 4, at_most=True)


def memory(plan: Plan) -> list[Finding]:
    """A subscription in one room for all, and in a topic of each one's own."""
    count = plan.memory_connections
    places = {
        "none": ["/topics/none/"] * count,
        "one for all": ["/topics/room/"] * count,
        "one for each": [f"/topics/room-{number}/" for number in range(count)],
    }
    rounds: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(plan.rounds):
        for name, paths in places.items():
            rounds[name].append(_kibibytes_each(paths))
    print(f"\nmemory of a connection by topics ({count:,} connections, KiB each)")
    findings = []
    for name, sizes in rounds.items():
        print(f"  {name:<12} {median(sizes):>6.2f}  rounds " + " ".join(f"{s:.2f}" for s in sizes))
        if name != "none":
            more = [own - idle for own, idle in zip(sizes, rounds["none"], strict=True)]
            doubt = unsteady({"none": rounds["none"], name: sizes})
            title = f"memory of a subscription, {name}"
            findings.append(Finding(title, more, 1.0, "KiB", at_most=True, doubt=doubt))
    return findings


def _kibibytes_each(paths: Sequence[str]) -> float:
    """Growth for each connection, in a fresh process that has met a few visitors before."""
    with serve("django_ws", _NO_PINGS) as server:
        with opened_at(server, ["/topics/warm-up/"] * _WARM_UP) as clients:
            one_message_each(clients, frames.JSON)
        before = server.memory()
        with opened_at(server, paths) as clients:
            one_message_each(clients, frames.JSON)
            return (server.memory() - before) / len(paths) / 1024


def measure(redis: Redis, plan: Plan) -> list[Finding]:
    with ExitStack() as stack:
        servers = [stack.enter_context(serve(name, _NO_PINGS)) for name in APPLICATIONS]
        findings = one_topic(servers, redis, plan)
        bare_is_stopped(servers[0], redis, plan)
    findings += two_processes(redis, plan)
    with serve("django_ws", _NO_PINGS) as server:
        findings += one_stuck_in_a_hundred(server, redis, plan)
        findings += many_topics(server, redis, plan)
    return findings + memory(plan) + publishing.measure(redis, plan)
