"""The options of ``manage.py runws`` and ``python -m django_ws.server``, in one place."""

from __future__ import annotations

import argparse
import os
import ssl
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from django_ws.server.http.limits import Limits, default_max_waiting

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")
WS_CHOICES = ("auto", "fast", "websockets-sansio", "websockets", "wsproto", "none")


def default_workers() -> int:
    """``WEB_CONCURRENCY`` of the environment, or the cores that this process may use."""
    given = os.environ.get("WEB_CONCURRENCY", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - the other systems' way, which Linux never goes


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the server is told. The fields are the options' names; times are in seconds."""

    bind: list[str] = field(default_factory=lambda: ["127.0.0.1:8000"])
    workers: int = field(default_factory=default_workers)
    backlog: int = 2048
    reload: bool = False
    log_level: str = "info"
    access_log: bool = True
    graceful_timeout: float = 30.0
    hang_timeout: float = 60.0
    timeout_keep_alive: int = 5
    header_timeout: float = Limits.header_timeout
    max_header_size: int = Limits.max_header_size
    max_waiting: int = field(default_factory=default_max_waiting)
    limit_concurrency: int | None = None
    limit_max_requests: int | None = None
    ws: str = "auto"
    ws_max_queue: int = 32
    ws_ping_interval: float = 20.0
    ws_ping_timeout: float = 20.0
    compression: bool = False
    loop: str = "auto"
    http: str = "auto"
    proxy_headers: bool = False
    forwarded_allow_ips: str | None = None
    root_path: str = ""
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = field(default=None, repr=False)
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: str = "none"
    ssl_ciphers: str | None = None
    gc_tuning: bool = True

    @classmethod
    def of(cls, parsed: Mapping[str, Any]) -> Self:
        """From what a parser found; other keys are left alone."""
        values = {each.name: parsed[each.name] for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value is not None})

    @property
    def limits(self) -> Limits:
        return Limits(
            max_header_size=self.max_header_size,
            header_timeout=self.header_timeout,
            max_waiting=self.max_waiting,
        )

    @property
    def late_seconds(self) -> float:
        """By how much a worker that is told to stop may be late before it is killed."""
        return 0.7 if self.reload else 5.0  # who changes files wants to see it soon

    @property
    def certificate_demand(self) -> ssl.VerifyMode:
        return ssl.VerifyMode[f"CERT_{self.ssl_cert_reqs.upper()}"]


def _at_least(least: int) -> Any:
    def whole_number(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is less than {least}")
        return number

    return whole_number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:  # nor is "nan"
        raise argparse.ArgumentTypeError(f"{text} is no time in seconds")
    return number


def _some_seconds(text: str) -> float:
    number = _seconds(text)
    if not number:
        raise argparse.ArgumentTypeError("0 seconds are too few")
    return number


def add_arguments(parser: ArgumentParser) -> None:
    """All options but ``--app-dir``, which only ``python -m django_ws.server`` has."""
    add, default = parser.add_argument, Options()
    add(
        *("-b", "--bind"),
        action="append",
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT, :PORT for all interfaces, or unix:PATH; may be given "
        f"several times (default: {default.bind[0]})",
    )
    add(
        *("-w", "--workers"),
        type=_at_least(1),
        default=default.workers,
        metavar="N",
        help="processes that serve (default: $WEB_CONCURRENCY, or one for each core)",
    )
    add(
        "--backlog",
        type=_at_least(1),
        default=default.backlog,
        metavar="N",
        help="connections that may wait to be accepted (default: %(default)s)",
    )
    add("--reload", action="store_true", help="one worker, started again when a file changes")
    add("--log-level", choices=LOG_LEVELS, default=default.log_level, help="default: %(default)s")
    add(
        "--no-access-log",
        action="store_false",
        dest="access_log",
        help="no line for each request and each socket",
    )
    add(
        "--graceful-timeout",
        type=_seconds,
        default=default.graceful_timeout,
        metavar="SECONDS",
        help="how long a worker that was told to stop may take until it is killed "
        "(default: %(default)g)",
    )
    add(
        "--hang-timeout",
        type=_seconds,
        default=default.hang_timeout,
        metavar="SECONDS",
        help="how long the event loop of a worker may stand still until it is replaced; 0 for "
        "ever, and so with --reload (default: %(default)g)",
    )
    add(
        "--timeout-keep-alive",
        type=_at_least(0),
        default=default.timeout_keep_alive,
        metavar="SECONDS",
        help="how long an HTTP connection without a request stays open (default: %(default)s)",
    )
    add(
        "--header-timeout",
        type=_some_seconds,
        default=default.header_timeout,
        metavar="SECONDS",
        help="how long a client may take to send the head of a request, or to begin TLS "
        "(default: %(default)g)",
    )
    add(
        "--max-header-size",
        type=_at_least(1024),
        default=default.max_header_size,
        metavar="BYTES",
        help="of a request line and its headers, cookies among them; larger ones are answered with "
        "431 (default: %(default)s)",
    )
    add(
        "--max-waiting",
        type=_at_least(1),
        default=default.max_waiting,
        metavar="N",
        help="connections of a worker whose request is not there yet; the oldest are dropped "
        "(default: a quarter of the files it may open, at most 8192)",
    )
    add(
        "--limit-concurrency",
        type=_at_least(1),
        metavar="N",
        help="connections of a worker above which requests are answered with 503 (default: none; "
        "WS_MAX_CONNECTIONS is what bounds sockets)",
    )
    add(
        "--limit-max-requests",
        type=_at_least(1),
        metavar="N",
        help="HTTP requests after which a worker is replaced (default: none)",
    )
    _add_protocols(parser, default)
    _add_proxies(parser)
    _add_tls(parser, default)
    add(
        "--no-gc-tuning",
        action="store_false",
        dest="gc_tuning",
        help="leave Python's garbage collection as it is",
    )


def _add_protocols(parser: ArgumentParser, default: Options) -> None:
    add = parser.add_argument
    add(
        "--ws",
        choices=WS_CHOICES,
        default=default.ws,
        help="the WebSocket implementation: the library's fast one, or one of uvicorn's "
        "(default: %(default)s, the fast one where it can be used)",
    )
    add(
        "--compression",
        action="store_true",
        help="offer permessage-deflate, which costs memory and time for each socket",
    )
    add(
        "--ws-max-queue",
        type=_at_least(1),
        default=default.ws_max_queue,
        metavar="N",
        help="messages that wait, with --ws fast or websockets (default: %(default)s)",
    )
    add(
        "--ws-ping-interval",
        type=_seconds,
        default=default.ws_ping_interval,
        metavar="SECONDS",
        help="between two protocol pings; 0 for none (default: %(default)g)",
    )
    add(
        "--ws-ping-timeout",
        type=_seconds,
        default=default.ws_ping_timeout,
        metavar="SECONDS",
        help="how long the answer to a ping may take; 0 for ever (default: %(default)g)",
    )
    add(
        "--loop",
        choices=("auto", "uvloop", "asyncio"),
        default=default.loop,
        help="the event loop (default: %(default)s, uvloop where it is installed)",
    )
    add(
        "--http",
        choices=("auto", "httptools", "h11"),
        default=default.http,
        help="the HTTP implementation (default: %(default)s, httptools where it is installed)",
    )


def _add_proxies(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--proxy-headers",
        action="store_true",
        help="believe X-Forwarded-Proto and X-Forwarded-For of --forwarded-allow-ips",
    )
    add(
        "--forwarded-allow-ips",
        metavar="LIST",
        help="addresses and networks of the proxies, with commas; * for all "
        "(default: $FORWARDED_ALLOW_IPS, or 127.0.0.1,::1)",
    )
    add(
        "--root-path",
        default="",
        metavar="PATH",
        help="below which path a proxy serves the site",
    )


def _add_tls(parser: ArgumentParser, default: Options) -> None:
    add = parser.add_argument
    add("--ssl-certfile", metavar="FILE", help="the certificate, and those that vouch for it")
    add("--ssl-keyfile", metavar="FILE", help="its key (default: in the same file)")
    add("--ssl-keyfile-password", metavar="TEXT", help="which others see in the list of processes")
    add("--ssl-ca-certs", metavar="FILE", help="who may vouch for the clients' certificates")
    add(
        "--ssl-cert-reqs",
        choices=("none", "optional", "required"),
        default=default.ssl_cert_reqs,
        help="whether clients must have a certificate (default: %(default)s)",
    )
    add("--ssl-ciphers", metavar="LIST", help="in OpenSSL's notation (default: Python's)")
