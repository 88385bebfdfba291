"""``manage.py wscheck``: what it says of a socket that opens, and of each way not to."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.core.management import CommandError, call_command
from websockets.server import ServerProtocol
from websockets.sync.server import ServerConnection, serve

from django_ws.server.wscheck.probe import Probe
from tests import ROOT
from tests.support.servers import DEFAULT, KINDS, Server

WAIT_SECONDS = 50.0
SECRET = "k3Yq9Zt0Lm"

Talk = Callable[[socket.socket], None]


def wscheck(*arguments: str) -> str:
    """What it printed. Raises what it failed with."""
    out = StringIO()
    patient = ("--timeout", f"{WAIT_SECONDS:g}")  # a later one counts
    call_command("wscheck", *patient, *arguments, stdout=out, no_color=True)
    return out.getvalue()


def failure(*arguments: str) -> str:
    """The one line that it failed with."""
    with pytest.raises(CommandError) as raised:
        wscheck(*arguments)
    assert raised.value.returncode == 1
    line = str(raised.value)
    assert "\n" not in line
    assert SECRET not in line
    return line


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = Server(KINDS[DEFAULT])
    yield f"ws://127.0.0.1:{server.port}/wscheck"
    server.stop()


@contextmanager
def peer(*talks: Talk) -> Iterator[int]:
    """A port at which each connection in turn is talked to; it is closed at the talk's end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for talk in talks:
                sock, _address = listener.accept()
                with sock:
                    sock.settimeout(WAIT_SECONDS)
                    talk(sock)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def request(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        received = sock.recv(65536)
        assert received
        data += received
    return data


def until_closed(sock: socket.socket) -> None:
    """Read until the client is gone."""
    try:
        while sock.recv(65536):
            pass
    except OSError:
        pass


def answering(answer: bytes) -> Talk:
    def talk(sock: socket.socket) -> None:
        request(sock)
        sock.sendall(answer)

    return talk


def accepting(*then: Callable[[ServerProtocol], None], reads_on: bool = True) -> Talk:
    """A WebSocket server that answers no ping, and says something else."""

    def talk(sock: socket.socket) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(request(sock))
        [event] = protocol.events_received()
        protocol.send_response(protocol.accept(event))  # type: ignore[arg-type]
        for step in then:
            step(protocol)
        sock.sendall(b"".join(protocol.data_to_send()))
        if reads_on:
            until_closed(sock)

    return talk


class TestOpens:
    def test_each_step_is_told_with_its_time(self, site: str) -> None:
        printed = wscheck(f"{site}/echo/?token={SECRET}")
        steps = re.findall(r"^(\w+) +\d+\.\d ms", printed, re.MULTILINE)
        assert steps == ["name", "TCP", "handshake", "ping", "OK"]
        assert "127.0.0.1" in printed
        assert printed.endswith(f"{site}/echo/\n")
        assert SECRET not in printed

    def test_the_subprotocol_is_told(self, site: str) -> None:
        printed = wscheck(f"{site}/subprotocols/", "--subprotocol", "v2.chat")
        assert "subprotocol v2.chat" in printed

    def test_quiet(self, site: str) -> None:
        assert wscheck(f"{site}/echo/", "-v", "0") == ""

    def test_headers_are_sent_also_in_the_place_of_its_own(self) -> None:
        seen = []

        def talk(sock: socket.socket) -> None:
            seen.append(request(sock))

        with peer(talk) as port:
            failure(
                f"ws://alice:secret@127.0.0.1:{port}/?x=1",
                *("--header", "host: example.com", "--header", "X-A: 1", "--header", "X-A: 2"),
                *("--origin", "https://example.com"),
            )
        [head] = seen
        lines = head.decode().split("\r\n")
        assert lines[0] == "GET /?x=1 HTTP/1.1"
        assert [line for line in lines if line.lower().startswith("host:")] == ["host: example.com"]
        assert {"X-A: 1", "X-A: 2", "Origin: https://example.com"} < set(lines)
        assert any(line.startswith("Authorization: Basic ") for line in lines)

    def test_messages_and_pings_of_the_server_do_not_disturb(self) -> None:
        def talk(sock: socket.socket) -> None:
            protocol = ServerProtocol()
            protocol.receive_data(request(sock))
            [event] = protocol.events_received()
            protocol.send_response(protocol.accept(event))  # type: ignore[arg-type]
            protocol.send_text(b"welcome")
            protocol.send_ping(b"are you there")
            protocol.send_pong(b"not the one")
            while True:
                sock.sendall(b"".join(protocol.data_to_send()))
                if not (data := sock.recv(65536)):
                    return
                protocol.receive_data(data)

        with peer(talk) as port:
            assert "OK" in wscheck(f"ws://127.0.0.1:{port}/")

    def test_a_close_right_behind_the_answer_to_the_ping_is_no_failure(self) -> None:
        def talk(sock: socket.socket) -> None:
            protocol = ServerProtocol()
            protocol.receive_data(request(sock))
            [event] = protocol.events_received()
            protocol.send_response(protocol.accept(event))  # type: ignore[arg-type]
            sock.sendall(b"".join(protocol.data_to_send()))
            protocol.receive_data(sock.recv(65536))
            protocol.send_close(1001)
            sock.sendall(b"".join(protocol.data_to_send()))
            until_closed(sock)

        with peer(talk) as port:
            assert "OK" in wscheck(f"ws://127.0.0.1:{port}/")

    def test_what_comes_behind_the_answer_to_the_ping_is_not_kept(self) -> None:
        def talk(sock: socket.socket) -> None:
            protocol = ServerProtocol()
            protocol.receive_data(request(sock))
            [event] = protocol.events_received()
            protocol.send_response(protocol.accept(event))  # type: ignore[arg-type]
            closes = False
            while not closes:
                sock.sendall(b"".join(protocol.data_to_send()))
                data = sock.recv(65536)
                assert data
                closes = data[0] == 0x88  # the frame of a close
                if closes:
                    sock.sendall(b"\x81\x01x" * 1000)
                protocol.receive_data(data)
            sock.sendall(b"".join(protocol.data_to_send()))
            until_closed(sock)

        with peer(talk) as port:
            probe = Probe(f"ws://127.0.0.1:{port}/", timeout=WAIT_SECONDS)
            assert [step.name for step in probe.run()][-1] == "ping"
        protocol = vars(probe)["_protocol"]
        assert protocol.close_rcvd is not None
        assert protocol.events_received() == []

    @pytest.mark.parametrize(("path", "code"), [("echo/", 0), ("nowhere/", 1)])
    def test_as_a_program(self, path: str, code: int, site: str) -> None:
        """Its exit code is what a script looks at."""
        command = [sys.executable, "-m", "django", "wscheck", f"{site}/{path}"]
        options = ["--settings", "tests.settings", "--timeout", f"{WAIT_SECONDS:g}"]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code
        assert ("OK" in done.stdout) is (code == 0)
        assert "Traceback" not in done.stderr


class TestRefused:
    @pytest.mark.parametrize(
        ("path", "arguments", "words"),
        [
            ("/nowhere/", [], ["refused with 404", "ws_urls.py"]),
            ("/echo/", ["--origin", "https://evil.example"], ["refused with 403", "origin"]),
            ("/echo/", ["--header", "Host: evil.example"], ["refused with 400", "ALLOWED_HOSTS"]),
            ("/refuse/reject/401/", [], ["refused with 401", "Cookie: sessionid"]),
            ("/refuse/reject/418/", [], ["refused with 418", "log"]),
            ("/refuse-readably/reject/403/", [], ["closed at once with 4403", "user"]),
            ("/refuse-readably/reject/429/", [], ["closed at once with 4429", "PER_USER"]),
        ],
    )
    def test_by_the_library(
        self, path: str, arguments: list[str], words: list[str], site: str
    ) -> None:
        line = failure(f"{site}{path}?token={SECRET}", *arguments)
        assert line.startswith(f"{site}{path}: ")
        assert [word for word in words if word not in line] == []

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (b"HTTP/1.1 200 OK\r\n\r\n<html>", ["answered with 200, as for a page", "Upgrade"]),
            (
                b"HTTP/1.1 301 Moved\r\nLocation: https://a.example/b/?token=k3Yq9Zt0Lm\r\n\r\n",
                ["redirected with 301 to https://a.example/b/:"[:-1], "wss://"],
            ),
            (b"HTTP/1.1 302 Found\nLocation: /login/\n\n", ["302 to /login/", "no redirect"]),
            (b"HTTP/1.1 302 Found\r\n\r\n", ["302 to nowhere"]),
            (
                b"HTTP/1.1 302 Found\r\nLocation: http://a.example\r\n\r\n",
                ["to http://a.example. Cl"],
            ),
            (
                b"HTTP/1.1 302 Found\r\nLocation: http://[x/\r\n\r\n",
                ["redirected with 302 to what is no URL", "no redirect"],
            ),
            (
                b"HTTP/1.1 302 Found\r\nLocation: http://a:k3Yq9Zt0Lm@b.example/\r\n\r\n",
                ["to http://b.example/."],
            ),
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", ["refused with 502", "does not reach"]),
            (b"HTTP/1.1 503 Full\r\nRetry-After: 7\r\n\r\n", ["503, to be tried again in 7 s"]),
            (
                b"HTTP/1.1 503 Full\r\nRetry-After: " + b"9" * 5000 + b"\r\n\r\n",
                ["refused with 503. Full"],
            ),
            (b"SSH-2.0-OpenSSH_9.2\r\n", ["speaks no HTTP ('SSH-2.0", "port"]),
            (b"", ["closed without an answer"]),
            (b"HTTP/1.1 101 Sure\r\n\r\n", ["no WebSocket's", "proxy"]),
        ],
    )
    def test_by_something_else(self, answer: bytes, words: list[str]) -> None:
        with peer(answering(answer)) as port:
            line = failure(f"ws://127.0.0.1:{port}/")
        assert [word for word in words if word not in line] == []

    @pytest.mark.parametrize(
        ("header", "words"),
        [
            (b"Upgrade: \x9b31m\xc2\x85", r"at 0 in \x9b31m\xc2"),
            (b"Upgrade: websocket\r\nSec-WebSocket-Accept: \x9b31m", r"header: \x9b31m)"),
            (b"Upgrade: " + b"y" * 5000, "yyy...)"),
        ],
        ids=["upgrade", "accept", "long"],
    )
    def test_what_it_sends_does_nothing_to_the_terminal(self, header: bytes, words: str) -> None:
        answer = b"HTTP/1.1 101 Sure\r\nConnection: Upgrade\r\n" + header + b"\r\n\r\n"
        with peer(answering(answer)) as port:
            line = failure(f"ws://127.0.0.1:{port}/")
        assert words in line
        assert line.isprintable()
        assert len(line) < 400

    @pytest.mark.parametrize(
        ("frame", "words"),
        [
            (b"\x82\x7f" + (2**24 + 1).to_bytes(8), "16777217 bytes exceeds limit of 16777216"),
            (b"\xf2\x00", "reserved bits"),
        ],
        ids=["too large", "no frame"],
    )
    def test_what_is_not_read(self, frame: bytes, words: str) -> None:
        def talk(sock: socket.socket) -> None:
            accepting(reads_on=False)(sock)
            sock.sendall(frame)
            until_closed(sock)

        with peer(talk) as port:
            line = failure(f"ws://127.0.0.1:{port}/")
        assert "open, but what came then is not read" in line
        assert words in line

    def test_an_answer_without_end(self) -> None:
        def talk(sock: socket.socket) -> None:
            request(sock)
            try:
                while True:
                    sock.sendall(b"HTTP/1.1 101 " + b"x" * 10000)
            except OSError:
                pass

        with peer(talk) as port:
            assert "no WebSocket's" in failure(f"ws://127.0.0.1:{port}/")

    @pytest.mark.parametrize(
        ("code", "reason", "words"),
        [
            (1011, "", ["closed at once with 1011. An exception"]),
            (4000, "who\nknows", [r"4000 (who\nknows). The handler closes it"]),
        ],
    )
    def test_closed_as_soon_as_it_was_open(self, code: int, reason: str, words: list[str]) -> None:
        with peer(accepting(lambda protocol: protocol.send_close(code, reason))) as port:
            line = failure(f"ws://127.0.0.1:{port}/")
        assert [word for word in words if word not in line] == []

    def test_cut_off_as_soon_as_it_was_open(self) -> None:
        def talk(sock: socket.socket) -> None:
            accepting(reads_on=False)(sock)
            sock.recv(65536)  # the ping: what is not read would turn the end into a reset

        with peer(talk) as port:
            assert "closed at once with 1006" in failure(f"ws://127.0.0.1:{port}/")

    def test_reset_by_the_server(self) -> None:
        def talk(sock: socket.socket) -> None:
            request(sock)
            # To close it now sends a reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        def accept_and_reset(sock: socket.socket) -> None:
            accepting(reads_on=False)(sock)
            sock.recv(65536)  # the ping: the answer to the handshake has arrived
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        with peer(talk, accept_and_reset) as port:
            assert "cut off during the handshake" in failure(f"ws://127.0.0.1:{port}/")
            assert "cut off before a ping was answered" in failure(f"ws://127.0.0.1:{port}/")

    def test_nothing_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # nobody else's then, and nobody listens
            port = taken.getsockname()[1]
            # With the longest time that is taken.
            line = failure(f"ws://127.0.0.1:{port}/?token={SECRET}", "--timeout", "86400")
        assert f"nothing listens on port {port}. Start the server" in line

    def test_a_name_that_is_not_known(self) -> None:
        assert "the name nowhere.invalid is not known" in failure("ws://nowhere.invalid/")

    def test_a_network_that_cannot_be_reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(*args: Any) -> None:
            raise OSError(101, "Network is unreachable")

        monkeypatch.setattr(socket, "create_connection", unreachable)
        assert "Network is unreachable" in failure("ws://127.0.0.1:9/")


class TestTimesOut:
    def test_no_answer_to_the_handshake(self) -> None:
        with peer(until_closed) as port:
            line = failure(f"ws://127.0.0.1:{port}/", "--timeout", "0.2")
        assert "no answer to the handshake in 0.2 s" in line

    @pytest.mark.parametrize("endless", [False, True])
    def test_no_answer_to_the_ping_though_messages_come_without_end(self, endless: bool) -> None:
        def talk(sock: socket.socket) -> None:
            accepting(reads_on=False)(sock)
            try:
                while True:
                    sock.sendall(b"\x81\x01x" * 1000)
            except OSError:
                pass

        for seconds in ("0.5", "5", "30"):  # the handshake alone may take a busy machine some
            with peer(talk if endless else accepting()) as port:
                line = failure(f"ws://127.0.0.1:{port}/", "--timeout", seconds)
            if "no answer to the handshake" not in line:
                break
        assert f"no answer to a ping in {seconds} s" in line

    def test_no_answer_to_tls(self) -> None:
        with peer(until_closed) as port:
            line = failure(f"wss://127.0.0.1:{port}/", "--timeout", "0.2")
        assert "TLS: no answer in 0.2 s" in line

    def test_no_connection(self) -> None:
        """A port whose queue is full takes no connection, and refuses none."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
            port = listener.getsockname()[1]
            for _number in range(4):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            line = failure(f"ws://127.0.0.1:{port}/", "--timeout", "0.2")
        assert "does not answer in 0.2 s" in line


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For localhost, signed by itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def tls_port(certificate: Path) -> Iterator[int]:
    def handler(ws: ServerConnection) -> None:
        for _message in ws:
            pass

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serve(handler, "localhost", 0, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


class TestTLS:
    def test_a_trusted_certificate(
        self, tls_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        printed = wscheck(f"wss://localhost:{tls_port}/")
        assert re.search(r"^TLS +\d+\.\d ms   TLSv1\.3$", printed, re.MULTILINE)
        assert printed.endswith(f"wss://localhost:{tls_port}/\n")

    def test_a_certificate_that_is_not_trusted(self, tls_port: int) -> None:
        line = failure(f"wss://localhost:{tls_port}/")
        assert "certificate is not good (self-signed certificate)" in line
        assert "--insecure" in line

    def test_insecure_passes_over_it_and_says_so(self, tls_port: int) -> None:
        printed = wscheck(f"wss://localhost:{tls_port}/", "--insecure")
        assert "TLSv1.3, certificate not checked" in printed

    def test_tls_where_none_is_spoken(self, site: str) -> None:
        line = failure(f"{site}/echo/".replace("ws://", "wss://"))
        assert ": TLS: " in line
        assert "write ws://" in line

    def test_no_tls_where_it_is_spoken(self, tls_port: int) -> None:
        line = failure(f"ws://localhost:{tls_port}/")
        assert "wss://" in line


class TestArguments:
    @pytest.mark.parametrize(
        "url", [f"http://a/?{SECRET}", "ws:///x", "localhost:8000", "ws://a:b/", "ws://a/#b"]
    )
    def test_what_is_no_url_of_a_socket(self, url: str) -> None:
        assert "is no URL of a WebSocket" in failure(url)

    @pytest.mark.parametrize(
        "url", [f"ws://alice:{SECRET}@a:b/", f"http://alice:{SECRET}@a/", f"alice:{SECRET}@a"]
    )
    def test_a_password_in_what_is_no_url_is_not_shown(self, url: str) -> None:
        assert failure(url).startswith("This is no URL of a WebSocket")

    @pytest.mark.parametrize("header", ["Cookie", ": x", "A: b\r\nC: d"])
    def test_what_is_no_header(self, header: str) -> None:
        assert "write it as 'Name: value'" in failure("ws://127.0.0.1/", "--header", header)

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e+11", "86401"])
    def test_what_is_no_time(self, seconds: str) -> None:
        line = failure("ws://127.0.0.1/", "--timeout", seconds)
        assert f"--timeout {seconds}: give seconds" in line

    def test_ipv6_in_the_place(self) -> None:
        line = failure("ws://[::1]:1/ws/", "--timeout", "2")
        assert line.startswith("ws://[::1]:1/ws/: ")

    def test_websockets_must_be_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "websockets", None)
        assert 'pip install "django-ws[server]"' in failure("ws://127.0.0.1/")
