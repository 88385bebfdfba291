"""How `runws` starts, fails, is stopped, and what its options do: one server for each test."""

from __future__ import annotations

import datetime
import os
import resource
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from tests import ROOT
from tests.support.redis_server import until
from tests.support.running import (
    APPLICATION,
    COMMAND,
    SECONDS,
    SERVER,
    SETTINGS,
    Runws,
    fetch,
    is_gone,
    receive,
)

CANNOT_START = 3
FREE = ("-b", "127.0.0.1:0")

# An application without Django, which tells how often its module was changed.
BARE = """
import os

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("pages alone")
    body = b'{"pid": %d, "version": VERSION}' % os.getpid()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def told(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Tell later workers what to do."""
    file = tmp_path / "told"

    def tell(what: str) -> dict[str, str]:
        file.write_text(what)
        return {"RUNWS_TOLD": str(file)}

    return tell


def failed(*arguments: str, **environment: str) -> str:
    """What a server printed that could not start."""
    mine = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**mine, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
        text=True,
        check=False,
    )
    assert ended.returncode == CANNOT_START, ended.stdout
    return ended.stdout


def test_the_command_serves_with_its_defaults_and_ends_on_a_signal() -> None:
    environment = {"DJANGO_SETTINGS_MODULE": SETTINGS, "RUNWS_NO_ASGI": "1"}
    with Runws(command=COMMAND, environment=environment) as server:
        page = server.get("/", X_Forwarded_Proto="https", X_Forwarded_For="10.1.2.3")
        assert (page["scheme"], page["address"]) == ("http", "127.0.0.1")
        with server.connect() as client:
            assert receive(client)["pid"] == page["pid"]
            assert client.protocol.extensions == []  # though the client offers compression
            client.send('"to myself"')
            assert receive(client) == "to myself"
        assert "broker" not in server.printed

        server.signal(signal.SIGTTOU)
        server.wait_for("One worker is the least")
        assert "go through its memory" not in server.printed
        server.signal(signal.SIGTTIN)
        server.wait_for_workers(2)
        server.wait_for("Broadcasts stay in one worker, since they go through its memory")

        with server.connect() as client:
            receive(client)
            # Ctrl+C in a terminal is a signal to all processes: it counts once.
            for pid in (*server.ready, server.process.pid):
                os.kill(pid, signal.SIGINT)
            with pytest.raises(ConnectionClosed) as caught:
                receive(client)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012
        assert server.process.wait(SECONDS) == 0
    server.wait_for("Stopped parent process")
    assert "at once\n" not in server.printed.replace("ends it at once", "")
    assert all(map(is_gone, server.children))


def test_where_nobody_listens_to_its_output_it_serves(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    command = shlex.join([sys.executable, *SERVER, "-w", "1", "-b", f"unix:{path}"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    with subprocess.Popen(f"exec {command} >&- 2>&-", shell=True, env=environment) as process:
        try:

            def answers() -> bool:
                with suppress(OSError), unix_connect(str(path), "ws://localhost/room/") as client:
                    return bool(receive(client))
                return False

            until(answers, "an answer", SECONDS)
        finally:
            process.terminate()
        assert process.wait(SECONDS) == 0


def test_options_reach_the_server() -> None:
    options = ["--proxy-headers", "--forwarded-allow-ips", "127.0.0.1", "--compression"]
    options += ["--no-access-log", "--no-gc-tuning", "--ws", "websockets-sansio"]
    backend = "django_ws.pubsub.backends.memory.MemoryBackend"
    with Runws(*options, workers=2, environment={"RUNWS_BACKEND": backend}) as server:
        page = server.get("/", X_Forwarded_Proto="https", X_Forwarded_For="10.1.2.3")
        assert (page["scheme"], page["address"]) == ("https", "10.1.2.3")
        assert page["frozen"] == 0
        with server.connect() as client:
            receive(client)
            assert len(client.protocol.extensions) == 1
        # Memory was asked for, so no broker is started; that it does not do for two is told once.
        server.wait_for("Broadcasts stay in one worker")
        assert server.printed.count("Broadcasts stay in one worker") == 1
        assert "broker" not in server.printed
    for line in ("GET /", "WebSocket", "connection"):
        assert line not in server.printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_whose_event_loop_is_blocked_is_killed(number: int) -> None:
    with Runws("--graceful-timeout", "600") as server, server.connect("/blocks/") as client:
        receive(client)
        client.send("0")
        if number == signal.SIGTERM:
            server.signal(signal.SIGTERM)
            server.wait_for("Stopping; another signal ends it at once")
        server.signal(number)
        assert server.process.wait(SECONDS) == 0
    assert "did not end in time: it is killed" in server.printed
    assert all(map(is_gone, server.children))


def test_signals_that_are_repeated_postpone_nothing() -> None:
    with Runws("--graceful-timeout", "600") as server, server.connect("/blocks/") as client:
        receive(client)
        client.send("0")

        def has_ended() -> bool:
            server.signal(signal.SIGTERM)
            time.sleep(0.1)
            return server.process.poll() is not None

        until(has_ended, "the end", SECONDS)
    assert "did not end in time: it is killed" in server.printed


def test_workers_and_broker_end_when_their_parent_dies(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    with Runws("--graceful-timeout", "0", workers=2, environment=environment) as server:
        [folder] = tmp_path.glob("django-ws-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        server.process.kill()
        until(lambda: all(map(is_gone, server.children)), "the end of the children", SECONDS)
    server.wait_for("has died: it stops")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("application", "says"),
    [
        ("nowhere.asgi:application", "there is no module 'nowhere'"),
        ("tests.integration.server.runws_site.asgi:nothing", "has no attribute 'nothing'"),
    ],
)
def test_an_application_that_is_not_there_is_told(application: str, says: str) -> None:
    printed = failed("-m", "django_ws.server", application, "-b", "127.0.0.1:0", "-w", "2")
    assert printed.count(says) == 1
    assert "could not start (exit code 3): this is the end" in printed
    assert "Traceback" not in printed


def test_an_application_that_raises_is_told_once_with_its_traceback(
    told: Callable[[str], dict[str, str]],
) -> None:
    printed = failed(*SERVER, "-b", "127.0.0.1:0", "-w", "2", **told("raise"))
    assert printed.count("RuntimeError: the site is broken") == 1


@pytest.mark.parametrize("logging", [{}, {"RUNWS_LOGGING": "1"}])
def test_no_logging_silences_why_it_does_not_start(logging: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        printed = failed(*COMMAND, "-b", address, DJANGO_SETTINGS_MODULE=SETTINGS, **logging)
    assert "Another server listens there" in printed
    printed = failed(
        *SERVER[:2], "tests.integration.server.runws_site.asgi:nothing", *FREE, **logging
    )
    assert "has no attribute 'nothing'" in printed


@pytest.mark.parametrize("loggers", ["uvicorn.access", "uvicorn uvicorn.error"])
def test_a_logger_that_is_given_a_level_keeps_its_handler(loggers: str) -> None:
    with Runws(workers=1, environment={"RUNWS_LOGGERS": loggers}) as server:
        server.get()
        with server.connect() as client:
            receive(client)
        server.wait_for('"GET / HTTP/1.1" 200', '" [accepted]')
        assert server.printed.count('"GET / HTTP/1.1" 200') == 1


def test_options_that_cannot_be_fulfilled_are_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    assert "No such file" in failed(*SERVER, "-b", "127.0.0.1:0", "--ssl-certfile", missing)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        printed = failed(*SERVER, "-b", f"127.0.0.1:{taken.getsockname()[1]}")
    assert "Another server listens there" in printed


def test_a_worker_that_dies_at_once_is_started_again_after_a_pause(
    told: Callable[[str], dict[str, str]],
) -> None:
    # However slow the machine is: those that die have lived for a short time.
    code = (
        "import sys; from django_ws.server import __main__; "
        "from django_ws.server.workers import child; "
        "child.STABLE_SECONDS = 600; sys.exit(__main__.main())"
    )
    server = Runws(command=("-c", code, APPLICATION), environment=told("die"))
    try:
        server.wait_for("a new one is started in 1 s")
        told("")
    finally:
        with server:
            assert server.get()["pid"] in server.ready


@pytest.mark.parametrize(
    ("what", "trouble"),
    [("raise", "the site is broken"), ("raise in the routes", "the routes are broken")],
)
def test_a_site_that_broke_keeps_its_old_workers_in_a_restart(
    told: Callable[[str], dict[str, str]], what: str, trouble: str
) -> None:
    with Runws(trouble=trouble, environment=told("")) as server:
        [old] = server.ready
        told(what)
        server.signal(signal.SIGHUP)
        server.wait_for("could not start (exit code 3): the old workers stay")
        assert server.get()["pid"] == old
        told("")
        server.signal(signal.SIGHUP)
        server.wait_for(f"Worker [{old}] has ended")
        assert server.get()["pid"] != old


def test_a_restart_that_is_asked_for_while_another_fails_is_not_forgotten(
    told: Callable[[str], dict[str, str]],
) -> None:
    with Runws(environment=told("")) as server:
        [old] = server.ready
        told("hang")
        server.signal(signal.SIGHUP)
        server.wait_for("hanging")
        server.signal(signal.SIGHUP)
        until(lambda: server.printed.count("Restarting the workers") == 2, "the second", SECONDS)
        told("")
        [spare] = server.found(r"hanging \[(\d+)\]")
        os.kill(spare, signal.SIGKILL)
        server.wait_for(f"Worker [{spare}] could not start (SIGKILL)")
        server.wait_for(f"Worker [{old}] has ended")
        assert server.get()["pid"] not in (old, spare)


def test_without_descriptors_it_goes_on_with_what_it_has() -> None:
    with Runws(workers=2) as server:
        first, second = server.ready
        before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used, before[1]))
        server.signal(signal.SIGHUP)
        server.wait_for("A worker could not be started ([Errno 24]", "the old workers stay")
        [broker] = server.found(r"Started the broker for broadcasts \[(\d+)\]")
        os.kill(broker, signal.SIGKILL)
        server.wait_for("The broker for broadcasts could not be started ([Errno 24]")
        os.kill(first, signal.SIGKILL)
        untold = "A worker could not be started ([Errno 24] Too many open files): another attempt"
        server.wait_for(untold)
        assert server.get()["pid"] == second
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
        assert second in server.wait_for_workers(2)
        until(lambda: server.printed.count("Started the broker") == 2, "a new broker", SECONDS)


@pytest.mark.parametrize(
    "unguarded",
    [
        "execute_from_command_line(sys.argv)",
        "sys.exit(execute_from_command_line(sys.argv))",
        "from django_ws.server.__main__ import main; sys.exit(main(sys.argv[2:]))",
    ],
)
def test_a_main_module_that_workers_cannot_import_is_told_with_the_cure(
    tmp_path: Path, unguarded: str
) -> None:
    manage = tmp_path / "manage.py"
    manage.write_text(
        f"import sys\nfrom django.core.management import execute_from_command_line\n{unguarded}\n"
    )
    what = [APPLICATION] if "main(" in unguarded else []
    printed = failed(str(manage), "runws", *what, *FREE, "-w", "2", DJANGO_SETTINGS_MODULE=SETTINGS)
    assert printed.count(f"A worker imports {manage} as it starts, which starts the server") == 1
    assert 'if __name__ == "__main__":' in printed
    assert "could not start (exit code 3): this is the end" in printed
    assert "Address already in use" not in printed


def test_a_signal_ends_it_before_it_serves(told: Callable[[str], dict[str, str]]) -> None:
    server = Runws(environment=told("hang"))
    try:
        server.wait_for("hanging")
        server.signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
    finally:
        server.kill()


def test_app_dir_is_where_the_application_is_looked_for(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "bare.py").write_text(BARE.replace("VERSION", "1"))
    command = ("-m", "django_ws.server", "bare:application", "--app-dir", str(folder))
    # Two workers without Django: nobody asks for a broker. And each serves one page.
    limit = ("--limit-max-requests", "1")
    with Runws(*limit, command=command, workers=2, folder=tmp_path) as server:
        first = server.get()["pid"]
        server.wait_for(f"Worker [{first}] has ended")
        assert len(server.wait_for_workers()) == 2
        assert "broker" not in server.printed


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and its own certificate, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "both.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return file


def test_tls(certificate: Path) -> None:
    options = ["--ssl-certfile", str(certificate), "--ssl-keyfile-password", "open sesame"]
    context = ssl.create_default_context(cafile=certificate)
    with Runws(*options, "--header-timeout", "2") as server:
        server.wait_for("Listening on https://127.0.0.1:")
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as silent:
            assert silent.recv(1) == b""
        plain = socket.create_connection(("127.0.0.1", server.port), SECONDS)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            page: Any = fetch(secure)
        assert page["scheme"] == "https"
        url = f"wss://127.0.0.1:{server.port}/room/"
        with connect(url, ssl=context, open_timeout=SECONDS) as client:
            assert receive(client)["pid"] == page["pid"]
