"""The parts of `runws` that can be looked at without serving."""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import logging
import os
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import fields
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from pytest_django import Settings
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from django_ws.limits.handshake_queue import handshake_queue_of
from django_ws.management.commands.runws import Command, application_target
from django_ws.server.__main__ import main, new_parser
from django_ws.server.access_log import WithoutRepetitions, WithoutSecrets
from django_ws.server.config import http_protocol, uvicorn_config, ws_protocol
from django_ws.server.http.limits import Limits
from django_ws.server.options import Options, default_workers
from django_ws.server.server import Server
from django_ws.server.workers import broker_process, worker
from django_ws.server.workers.child import (
    MAX_PAUSE_SECONDS,
    PARENTS_SIGNALS,
    Child,
    Order,
    Pauses,
    Report,
    pipe_from_child,
)
from django_ws.server.workers.listening import BindError, Listening
from django_ws.server.workers.loading import CannotImport, Site, import_routes, imported
from django_ws.server.workers.shared_table import Table
from django_ws.server.workers.supervisor import Supervisor
from django_ws.server.workers.worker import Line, Place, Supervised, run, tell_of_broadcasts
from tests import ROOT
from tests.support.asgi_peer import until as until_async
from tests.support.redis_server import until
from tests.support.running import APPLICATION, SECONDS, SETTINGS, receive, state

PAGE = (ROOT / "docs" / "running.md").read_text()


@pytest.fixture
def listening() -> Iterator[Listening]:
    with closing(Listening()) as opened:
        yield opened


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "shown"),
        [
            ("127.0.0.1:0", r"http://127\.0\.0\.1:\d+"),
            (":0", r"http://0\.0\.0\.0:\d+"),
            ("localhost:0", r"http://(127\.0\.0\.1|\[::1\]):\d+"),
        ],
    )
    def test_are_listened_on(self, listening: Listening, address: str, shown: str) -> None:
        listening.open([address], 10)
        assert re.fullmatch(shown, listening.shown("http")[0])
        for each in listening.sockets:
            socket.create_connection(each.getsockname()[:2], 5).close()

    @pytest.mark.parametrize(("address", "host"), [("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")])
    def test_of_ipv6(self, listening: Listening, address: str, host: str) -> None:
        try:
            with socket.create_server(("::1", 0), family=socket.AF_INET6):
                pass
        except OSError:
            pytest.skip("this machine has no IPv6")
        listening.open([address], 10)
        assert listening.shown("https")[0].startswith(f"https://{address[:-1]}")
        port = listening.sockets[0].getsockname()[1]
        socket.create_connection((host, port), 5).close()

    @pytest.mark.parametrize(
        "address",
        ["", "8000", "localhost", "127.0.0.1:http", "::1:80", "a:99999", "unix:", "a:b:1"],
    )
    def test_that_are_none(self, listening: Listening, address: str) -> None:
        with pytest.raises(BindError, match="no address: give HOST:PORT"):
            listening.open([address], 10)

    def test_that_are_taken_close_the_others(self, listening: Listening, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(BindError, match=f"cannot listen on {address}.*take another port"):
                listening.open([f"unix:{path}", address], 10)
        assert listening.sockets == []
        assert not path.exists()

    @pytest.mark.parametrize(
        ("number", "says"), [(errno.EACCES, "Ports below 1024"), (errno.EIO, "error$")]
    )
    def test_that_are_not_allowed(
        self, listening: Listening, monkeypatch: pytest.MonkeyPatch, number: int, says: str
    ) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise OSError(number, os.strerror(number))

        # The tests may run as root, to whom nothing is forbidden.
        monkeypatch.setattr(socket, "create_server", refuse)
        with pytest.raises(BindError, match=says):
            listening.open(["127.0.0.1:0"], 10)

    def test_of_a_name_without_one_of_its_addresses(
        self, listening: Listening, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here, not_here = ("127.0.0.1", 0), ("192.0.2.1", 0)  # the second is nobody's
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in (not_here, here)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        listening.open(["name:0"], 10)
        assert len(listening.sockets) == 1

    def test_of_a_name_that_is_taken_at_one_address(
        self, listening: Listening, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            free = ("127.0.0.1", 0)
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", each)
                for each in (free, taken.getsockname())
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
            with pytest.raises(BindError, match="Another server listens there"):
                listening.open(["name:0"], 10)


class TestUnixSockets:
    def test_a_file_that_a_killed_server_left_is_taken_over(
        self, listening: Listening, tmp_path: Path
    ) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        listening.open([f"unix:{path}"], 10)
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(str(path))

    def test_a_server_that_lives_is_left_alone(self, listening: Listening, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        listening.open([f"unix:{path}"], 10)
        second = Listening()
        with pytest.raises(BindError, match="another server listens there"):
            second.open([f"unix:{path}"], 10)
        assert path.exists()

    def test_another_file_is_left_alone(self, listening: Listening, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("mine")
        with pytest.raises(BindError, match="a file that is no socket"):
            listening.open([f"unix:{path}"], 10)
        assert path.read_text() == "mine"

    def test_the_file_of_a_successor_is_left_alone(
        self, listening: Listening, tmp_path: Path
    ) -> None:
        path = tmp_path / "socket"
        listening.open([f"unix:{path}"], 10)
        path.rename(tmp_path / "old")
        path.touch()
        listening.close()
        assert path.exists()


class TestOptions:
    def test_without_any_are_the_defaults(self) -> None:
        parsed = Options.of(vars(new_parser().parse_args(["a:b"])))
        assert parsed == Options()

    @pytest.mark.parametrize(
        "arguments",
        [
            ["-w", "0"],
            ["-w", "many"],
            ["--graceful-timeout", "-1"],
            ["--ws-ping-interval", "nan"],
            ["--log-level", "trace"],  # which would show query strings
            ["--ssl-cert-reqs", "perhaps"],
            ["--header-timeout", "0"],
            ["--max-header-size", "100"],
            ["--max-waiting", "0"],
        ],
    )
    def test_that_are_wrong(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["a:b", *arguments])
        assert arguments[0] in capsys.readouterr().err

    def test_of_requests_are_the_servers_limits(self) -> None:
        arguments = ["--header-timeout", "2.5", "--max-header-size", "9000", "--max-waiting", "7"]
        options = Options.of(vars(new_parser().parse_args(["a:b", *arguments])))
        limits = uvicorn_config("a:b", options).limits
        assert limits == Limits(header_timeout=2.5, max_header_size=9000, max_waiting=7)

    def test_show_no_password(self) -> None:
        assert "sesame" not in repr(Site("a:b", Options(ssl_keyfile_password="open sesame")))

    def test_an_application_without_a_colon(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["mysite.asgi"])
        assert "is not MODULE:NAME, as in mysite.asgi:application" in capsys.readouterr().err

    @pytest.mark.parametrize("given", ["", "0", "many"])
    def test_workers_are_as_many_as_cores(
        self, monkeypatch: pytest.MonkeyPatch, given: str
    ) -> None:
        monkeypatch.setenv("WEB_CONCURRENCY", given)
        assert default_workers() == len(os.sched_getaffinity(0))

    def test_workers_may_be_given_by_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEB_CONCURRENCY", "7")
        assert Options().workers == 7

    def test_both_commands_have_the_same(self) -> None:
        django = Command().create_parser("manage.py", "runws")
        own = {"--app-dir"}
        assert names(new_parser()) - own < names(django)

    def test_each_field_is_an_option(self) -> None:
        destinations = {action.dest for action in new_parser()._actions}
        assert {each.name for each in fields(Options)} < destinations

    def test_are_all_in_the_docs(self) -> None:
        documented = re.findall(r"^\| ((?:`-[^`]+`(?:, )?)+) \| ([^|]*) \|", PAGE, re.MULTILINE)
        rows = {
            tuple(part.partition(" ")[0] for part in re.findall(r"`([^`]+)`", cell)): default
            for cell, default in documented
        }
        known = {
            tuple(action.option_strings): action
            for action in new_parser()._actions
            if action.option_strings and action.dest != "help"
        }
        assert set(rows) == set(known)
        for name, action in known.items():
            if rows[name].startswith("`"):  # a value, not a word
                assert rows[name] == f"`{action.default}`".replace(".0`", "`")


def names(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


class TestConfiguration:
    def test_defaults(self, settings: Settings) -> None:
        settings.WS_MAX_MESSAGE_SIZE = 4321
        config = uvicorn_config("a:b", Options(ws="websockets-sansio"))
        assert config.ws_max_size == 4321
        assert (config.ws_ping_interval, config.ws_ping_timeout) == (20.0, 20.0)
        assert config.ws_per_message_deflate is False
        assert config.timeout_graceful_shutdown == 30

    def test_zero_is_no_ping(self) -> None:
        config = uvicorn_config("a:b", Options(ws_ping_interval=0, ws_ping_timeout=0))
        assert config.ws_ping_interval is config.ws_ping_timeout is None

    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("auto", "django_ws.server.protocol:FastProtocol"),
            ("fast", "django_ws.server.protocol:FastProtocol"),
            ("websockets-sansio", "django_ws.server.protocol.socket_log:LoggedSansIO"),
            ("wsproto", "wsproto"),
        ],
    )
    def test_implementation(self, given: str, used: str) -> None:
        assert ws_protocol(given) == used

    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("auto", "http.httptools:LimitedHttpTools"),
            ("httptools", "http.httptools:LimitedHttpTools"),
            ("h11", "http.h11:LimitedH11"),
        ],
    )
    def test_http(self, given: str, used: str) -> None:
        assert http_protocol(given) == f"django_ws.server.{used}"

    def test_http_without_httptools(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("django_ws.server.config.find_spec", lambda name: None)
        assert http_protocol("auto") == "django_ws.server.http.h11:LimitedH11"


class TestImporting:
    def test_gives_what_the_path_names(self) -> None:
        assert imported("os:path.join") is os.path.join

    @pytest.mark.parametrize(
        ("path", "says"),
        [
            ("nowhere.asgi:application", "there is no module 'nowhere'"),
            ("os.nowhere:application", "there is no module 'os.nowhere'"),
            ("os:nowhere", "has no attribute 'nowhere'"),
        ],
    )
    def test_says_what_is_not_there(self, path: str, says: str) -> None:
        with pytest.raises(CannotImport, match=says):
            imported(path)

    def test_what_a_module_misses_is_its_own_affair(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "needs_much.py").write_text("import not_there")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleNotFoundError, match="not_there"):
            imported("needs_much:application")


class TestLines:
    @pytest.fixture
    def record(self) -> Callable[..., logging.LogRecord]:
        def make(level: int, text: str, *args: object) -> logging.LogRecord:
            return logging.LogRecord("uvicorn.error", level, "", 0, text, args, None)

        return make

    def test_lose_their_queries(self, record: Any) -> None:
        line = record(logging.INFO, '%s - "WebSocket %s" %d', "1.2.3.4", "/a/?token=secret", 403)
        assert WithoutSecrets().filter(line)
        assert line.getMessage() == '1.2.3.4 - "WebSocket /a/" 403'

    def test_of_the_wire_are_dropped(self, record: Any) -> None:
        assert not WithoutSecrets().filter(record(logging.DEBUG, "< %s: %s", "Cookie", "secret"))
        assert WithoutSecrets().filter(record(logging.DEBUG, "= connection is %s", "OPEN"))

    @pytest.mark.parametrize(
        "text",
        ["Unsupported upgrade request.", "Invalid UTF-8 sequence received from client."],
    )
    def test_that_any_client_can_cause_are_throttled(
        self, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = logging.getLogger("uvicorn.error")
        logger.addFilter(WithoutRepetitions())
        try:
            for _ in range(20):
                logger.error(text, exc_info=ValueError("x"))
            logger.error("something else")
        finally:
            for each in [each for each in logger.filters if isinstance(each, WithoutRepetitions)]:
                logger.removeFilter(each)
        assert caplog.messages == [text, "something else"]
        assert caplog.records[0].exc_info is None

    @pytest.mark.parametrize("arguments", [(), ({"a": 1},)])
    def test_without_texts_stay(self, record: Any, arguments: tuple[Any, ...]) -> None:
        line = record(logging.INFO, "really?", *arguments)
        assert WithoutSecrets().filter(line)
        assert line.getMessage() == "really?"


class TestCommand:
    def test_serves_what_the_setting_names(self, settings: Settings) -> None:
        settings.ASGI_APPLICATION = "mysite.serving.application"
        assert application_target() == "mysite.serving:application"

    @pytest.mark.parametrize(
        ("root", "used"), [("mysite.urls", "mysite.asgi:application"), ("urls", "asgi:application")]
    )
    def test_without_the_setting_serves_what_startproject_makes(
        self, settings: Settings, root: str, used: str
    ) -> None:
        del settings.ASGI_APPLICATION
        settings.ROOT_URLCONF = root
        assert application_target() == used

    def test_a_setting_that_is_no_path(self, settings: Settings) -> None:
        settings.ASGI_APPLICATION = "application"
        with pytest.raises(CommandError, match="dotted path of the variable"):
            application_target()

    def test_without_uvicorn_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("running", "file_changes"):
            monkeypatch.delitem(sys.modules, f"django_ws.server.workers.{name}", raising=False)
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        with pytest.raises(CommandError, match=r'uvicorn is not installed.*"django-ws\[server\]"'):
            call_command("runws", skip_checks=True, stdout=OutputWrapper(sys.stdout))

    def test_ends_with_the_exit_code_of_the_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(SystemExit) as caught:
                call_command("runws", "-b", address, skip_checks=True)
        assert caught.value.code == 3


def wait_for_ever(pipe: Any) -> None:
    pipe.poll(None)


def place(listener: socket.socket) -> Place:
    return Place([listener], Table().take(), pipe_from_child()[1])


def end_with(pipe: Any, code: int) -> None:
    os._exit(code)


@contextmanager
def without_descriptors(but: int = 0) -> Iterator[None]:
    """In this process no file, socket or pipe can be opened, but for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 5, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(but):
            os.close(taken.pop())
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Aged:
    """As much of a Child as Pauses looks at."""

    def __init__(self, began: float) -> None:
        self.began = began


class TestProcesses:
    def test_pauses_grow_while_processes_die_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr("django_ws.server.workers.child.time.monotonic", lambda: now)
        pauses = Pauses()
        young: Any = Aged(now - 1)
        assert [pauses.note_death(young) for _ in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]
        assert pauses.left == MAX_PAUSE_SECONDS
        old: Any = Aged(now - 11)
        assert pauses.note_death(old) == pauses.left == 0

    def test_the_fate_of_a_child(self) -> None:
        child = Child("child", end_with, 5)
        child.process.join(30)
        assert child.outcome == "exit code 5"
        child.close()
        killed = Child("child", wait_for_ever)
        os.kill(killed.process.pid or 0, 40)  # which has no name of its own
        killed.process.join(30)
        assert killed.outcome == "signal 40"
        killed.tell("anything")  # type: ignore[arg-type]
        killed.close()

    def test_that_cannot_be_started_leave_nothing(self) -> None:
        gc.collect()  # what earlier tests have left is closed now
        before = len(os.listdir("/proc/self/fd"))
        with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
            Child("child", wait_for_ever)
        with without_descriptors(2), pytest.raises(OSError, match="Too many open files"):
            Child("child", wait_for_ever)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_where_the_first_cannot_be_started_it_is_the_end(self) -> None:
        supervisor = Supervisor("nowhere:application", Options(), [])
        with without_descriptors():
            supervisor._start()
        assert supervisor.run() == 3

    def test_none_is_left_after_an_error_of_the_parent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        supervisor = Supervisor("nowhere:application", Options(), [])
        started: list[int | None] = []

        def fail() -> None:
            started.extend(worker.child.pid for worker in supervisor.workers)
            raise RuntimeError("a mistake")

        monkeypatch.setattr(supervisor, "_seconds_to_look", fail)
        with pytest.raises(RuntimeError, match="a mistake"):
            supervisor.run()
        [pid] = started
        assert state(pid or 0) is None

    def test_have_no_time_in_which_signals_to_all_kill_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", SETTINGS)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            site = Site(APPLICATION, Options())
            folder = Path(tempfile.mkdtemp())
            children = [
                Child("worker", run, site, place(listener)),
                Child("broker", broker_process.serve, folder, 0.0),
            ]
            for number in (*PARENTS_SIGNALS, *PARENTS_SIGNALS):
                for child in children:
                    os.kill(child.pid or 0, number)
            for child in children:
                assert child.pipe.poll(SECONDS)
                assert child.pipe.recv() in (Report.IS_ALONE, Report.READY)
                assert child.is_alive
                child.pipe.close()
                child.process.join(SECONDS)
                assert child.process.exitcode == 0
                child.close()
        assert not folder.exists()

    @pytest.mark.parametrize(
        ("order", "graceful_timeout", "exit_code"),
        [(Order.STOP_AT_ONCE, 600, 128 + signal.SIGTERM), (Order.STOP, 2, 0)],
        ids=["at once", "in time"],
    )
    def test_end_whatever_their_threads_do(
        self,
        order: Order,
        graceful_timeout: float,
        exit_code: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Without a parent that would kill them."""
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", SETTINGS)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            site = Site(APPLICATION, Options(graceful_timeout=graceful_timeout))
            child = Child("worker", run, site, place(listener))
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/sleeps/"
            with connect(url, open_timeout=SECONDS) as client:
                receive(client)
                client.send("0")
                assert receive(client) == "asleep"
                child.tell(order)
                with pytest.raises(ConnectionClosed) as closed:
                    receive(client)
                child.process.join(SECONDS)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert child.process.exitcode == exit_code
        child.close()

    def test_no_order_gives_a_worker_more_time(self) -> None:
        supervisor = Supervisor("nowhere:application", Options(graceful_timeout=1e6), [])
        supervisor._start()
        [worker] = supervisor.workers
        os.kill(worker.child.pid or 0, signal.SIGSTOP)
        supervisor._stop()
        supervisor._stop()
        kill_at = worker.kill_at
        assert kill_at <= time.monotonic() + 2.0
        supervisor._retire(worker)
        assert worker.kill_at == kill_at
        supervisor._stop()
        assert worker.kill_at <= time.monotonic()
        supervisor._look()
        worker.child.process.join(SECONDS)
        assert worker.child.outcome == "SIGKILL"
        supervisor._look()
        assert supervisor.workers == []

    def test_a_worker_that_does_not_become_ready_is_killed(self) -> None:
        supervisor = Supervisor("nowhere:application", Options(), [])
        supervisor._start()
        [worker] = supervisor.workers
        os.kill(worker.child.process.pid or 0, 19)  # SIGSTOP: it never says anything
        worker.kill_at = 0.0
        supervisor._look()
        assert worker.kill_at == float("inf")  # it is killed once
        worker.child.process.join(30)
        assert worker.child.outcome == "SIGKILL"
        supervisor._look()
        assert supervisor.workers == []
        supervisor._broker.close()

    def test_a_worker_that_is_told_to_stop_before_it_is_ready_has_its_time(self) -> None:
        supervisor = Supervisor("nowhere:application", Options(), [])
        supervisor._start()
        [worker] = supervisor.workers
        supervisor._retire(worker)
        kill_at = worker.kill_at
        supervisor._receive(worker, Report.READY)
        assert worker.kill_at == kill_at < float("inf")
        worker.child.process.join(30)
        supervisor._look()
        assert supervisor.workers == []
        supervisor._broker.close()

    def test_routes_are_imported_before_the_first_request(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "needs_more.py").write_text("import nowhere_at_all")
        settings.ROOT_WS_URLCONF = "no_routes_for_sockets"
        import_routes()
        del settings.ROOT_URLCONF
        import_routes()
        settings.ROOT_WS_URLCONF = "needs_more"
        with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
            import_routes()
        settings.ROOT_URLCONF = "needs_more"
        settings.ROOT_WS_URLCONF = "no_routes_for_sockets"
        with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
            import_routes()

    @pytest.mark.parametrize(
        ("broadcast", "told"), [(None, [Report.IS_ALONE]), ("redis://127.0.0.1:1/0", [])]
    )
    def test_a_worker_tells_whether_it_is_alone(
        self, settings: Settings, broadcast: str | None, told: list[Report]
    ) -> None:
        if broadcast is not None:
            settings.WS_BROADCAST = broadcast
        mine, theirs = Pipe()
        line = Line(theirs, 1e6)
        line.server = Server(uvicorn_config("a:b", Options()))
        tell_of_broadcasts(Site("a:b", Options()), line)
        line.tell(Report.READY)
        assert [mine.recv() for _ in range(len(told) + 1)] == [*told, Report.READY]
        mine.close()

    def test_the_broker_outlives_its_parent_for_a_while(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        serving = broker_process.BrokerProcess(0.1)
        assert serving.location is not None
        waiting = Child("waiting", wait_for_ever)

        def has_been_told() -> bool:
            serving.look()
            return waiting.process.exitcode is not None  # it ends with its first order

        assert list(tmp_path.iterdir()) == []  # nobody has asked for it yet
        serving.ask(waiting)
        until(has_been_told, "the order to go on", SECONDS)
        [folder] = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert serving.child is not None
        serving.child.pipe.close()  # as the end of the parent does
        serving.child.process.join(30)
        assert serving.child.process.exitcode == 0
        assert not folder.exists()
        waiting.close()
        serving.close()

    def test_a_broker_whose_files_are_cleaned_up_is_replaced(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        serving = broker_process.BrokerProcess(0.1)
        serving.ask(Child("waiting", wait_for_ever))

        def is_ready() -> bool:
            serving.look()
            return serving._is_ready and bool(list(folder.iterdir()))

        folder = serving._chosen_folder()
        folder.mkdir(mode=0o700)
        serving._has_folder = True
        until(is_ready, "the broker", SECONDS)
        shutil.rmtree(folder)
        serving.look()
        assert "are gone: nobody reaches it any more" in caplog.text
        assert not serving._is_ready

        def looked() -> str:
            serving.look()
            return caplog.text

        until(lambda: looked() and folder.exists(), "another folder", SECONDS)
        until(is_ready, "another broker", SECONDS)
        shutil.rmtree(folder)
        folder.mkdir(mode=0o777)  # by somebody else
        folder.chmod(0o777)
        until(lambda: "belongs to somebody else" in looked(), "a word", SECONDS)
        assert serving.child is None
        serving.close()

    def test_without_a_temporary_folder_there_is_no_broker(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def none() -> str:
            raise FileNotFoundError("No usable temporary directory found")

        # The tests may run as root, who can write everywhere.
        monkeypatch.setattr(tempfile, "gettempdir", none)
        assert broker_process.BrokerProcess(0.1).location is None

    def test_a_broker_that_cannot_be_started_is_tried_again(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        serving = broker_process.BrokerProcess(0.1)
        waiting = Child("waiting", wait_for_ever)
        serving.ask(waiting)
        with caplog.at_level(logging.ERROR, "uvicorn.error"):
            serving.look()
        assert "could not be started ([Errno 2] No such file" in caplog.text
        assert 0 < serving.seconds_to_look[0] <= 1
        (tmp_path / "gone").mkdir()

        def is_there() -> bool:
            serving.look()
            return serving.child is not None

        until(is_there, "another attempt", SECONDS)
        waiting.kill()
        serving.close()
        assert list((tmp_path / "gone").iterdir()) == []

    def test_a_broker_that_dies_again_and_again_is_waited_for(self) -> None:
        serving = broker_process.BrokerProcess(0.1)
        for _ in range(2):
            serving.child = Child("broker", end_with, 1)
            serving.child.process.join(30)
            serving.look()
        assert serving.child is None
        assert 0 < serving.seconds_to_look[0] <= 1
        serving.close()

    def test_without_pyzmq_there_is_no_broker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        serving = broker_process.BrokerProcess(0.1)
        assert serving.location is not None
        monkeypatch.setitem(sys.modules, "zmq", None)
        assert serving.location is None
        serving.close()

    def test_a_worker_whose_parent_has_gone_stops_gently(self) -> None:
        mine, theirs = Pipe()
        server = Server(uvicorn_config("a:b", Options()))
        line = Line(theirs, 1e6)
        line.server = server
        mine.close()
        until(lambda: server.should_exit, "the order to stop")
        assert not server.force_exit
        line.tell(Report.LEAVING)  # to nobody


class TestHandingOver:
    """A worker that is told to leave what comes to the others."""

    @pytest.fixture
    def server(self, listening: Listening) -> Iterator[Any]:
        listening.open(["127.0.0.1:0"], 10)
        mine, theirs = Pipe()
        line = Line(theirs, 1e6)
        config = uvicorn_config("a:b", Options())
        server: Any = Supervised(config, line, place(listening.sockets[0]), tunes=False)
        line.server = server
        yield server
        mine.close()

    class Busy:
        """So many connections are beginning; one less at each look."""

        def __init__(self, count: int) -> None:
            self.count = count

        @property
        def beginning(self) -> int:
            self.count -= 1
            return max(0, self.count)

    async def test_serves_whom_it_has_accepted(self, server: Any) -> None:
        server._accepting = busy = self.Busy(3)
        server.hand_over()
        await server._settle()
        assert busy.count <= 0

    async def test_is_cut_off_when_its_backend_is_away_for_a_while(
        self, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "CUT_OFF_SECONDS", 0.1)
        connected = True
        monkeypatch.setattr(worker, "all_connected", lambda: connected)
        assert not server._is_cut_off()
        connected = False
        assert not server._is_cut_off()
        await until_async(server._is_cut_off)
        connected = True
        assert not server._is_cut_off()

    async def test_ends_no_process_but_its_own(
        self, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended: list[bool] = []
        monkeypatch.setattr(worker, "limit_the_rest", lambda: ended.append(True))

        async def nothing(*args: Any) -> None: ...

        monkeypatch.setattr(Server, "shutdown", nothing)
        await server.shutdown()
        assert ended == []
        server._line.is_of_process = True
        await server.shutdown()
        assert ended == [True]

    async def test_waits_for_handshakes_but_not_for_ever(
        self, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "HANDSHAKE_SECONDS", 0.3)
        server._accepting = self.Busy(0)
        server.hand_over()
        queue = handshake_queue_of(asyncio.get_running_loop())
        connection: Any = object()
        assert queue.admits(connection, "a route")
        began = time.monotonic()
        await server._settle()
        assert time.monotonic() - began >= 0.3
        queue.leave(connection)
        await server._settle()

    async def test_is_not_waited_for_where_the_whole_server_ends(self, server: Any) -> None:
        server._accepting = busy = self.Busy(10**9)
        await server._settle()
        assert busy.count == 10**9
