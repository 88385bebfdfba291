"""Makes one handshake and one ping, step by step, and times them.

Built on the sans-I/O client of the websockets library, since only who opens the connection can
tell a name that is not known from a server that does not answer.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI, PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.typing import Origin, Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from django_ws.logs.printable import printable
from django_ws.server.wscheck.answers import Refused, close_cure, refusal

PING = b"django_ws wscheck"
MAX_HEAD_BYTES = 64 * 1024  # of the answer to the handshake
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of what comes before the answer to the ping
HEAD_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True)
class Step:
    """What went well."""

    name: str
    seconds: float
    detail: str = ""


class Probe:
    """For one URL. ``timeout`` is in seconds, for each step; names are looked up without one."""

    def __init__(
        self,
        url: str,
        *,
        origin: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        subprotocols: Sequence[str] = (),
        timeout: float = 10.0,
        insecure: bool = False,
    ) -> None:
        """Raises ``ValueError`` for a URL that is none of a WebSocket."""
        try:
            self._uri: WebSocketURI = parse_uri(url)
        except (InvalidURI, ValueError) as error:
            # Nobody knows where a password begins and ends in what cannot be parsed.
            shown = "This" if "@" in url else printable(url.partition("?")[0])
            raise ValueError(
                f"{shown} is no URL of a WebSocket. It must look like "
                "ws://127.0.0.1:8000/ws/chat/, or wss://... with TLS."
            ) from error
        self._headers = headers
        self._timeout = timeout
        self._insecure = insecure
        self._protocol = ClientProtocol(
            self._uri,
            origin=None if origin is None else Origin(origin),
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            max_size=MAX_MESSAGE_BYTES,
        )

    @property
    def place(self) -> str:
        """The URL as it may be shown: without user, password and query string."""
        uri = self._uri
        host = f"[{uri.host}]" if ":" in uri.host else uri.host
        return f"{'wss' if uri.secure else 'ws'}://{host}:{uri.port}{uri.path or '/'}"

    def run(self) -> Iterator[Step]:
        """Each step, as soon as it is done. Raises ``Refused``, which tells cause and cure."""
        began = time.monotonic()
        addresses = self._look_up()
        yield Step("name", _since(began), ", ".join(dict.fromkeys(addresses)))
        began = time.monotonic()
        plain = self._connect(addresses)
        with closing(plain):
            yield Step("TCP", _since(began), f"port {self._uri.port}")
            sock: socket.socket = plain
            if self._uri.secure:
                began = time.monotonic()
                sock = self._start_tls(plain)
                unchecked = ", certificate not checked" if self._insecure else ""
                yield Step("TLS", _since(began), f"{sock.version()}{unchecked}")
            with closing(sock):
                began = time.monotonic()
                subprotocol = self._handshake(sock)
                yield Step("handshake", _since(began), subprotocol)
                began = time.monotonic()
                self._ping(sock)
                yield Step("ping", _since(began))
                self._close(sock)

    def _look_up(self) -> list[str]:
        try:
            found = socket.getaddrinfo(self._uri.host, self._uri.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Refused(
                f"the name {self._uri.host} is not known ({error})",
                "Check the host in the URL, and the DNS as this machine sees it.",
            ) from error
        return [str(address[0]) for *_, address in found]

    def _connect(self, addresses: Sequence[str]) -> socket.socket:
        """To the first that answers."""
        error: OSError = OSError("no address")
        for address in addresses:
            try:
                return socket.create_connection((address, self._uri.port), self._timeout)
            except OSError as failure:
                error = failure
        port = self._uri.port
        match error:
            case ConnectionRefusedError():
                cause = f"nothing listens on port {port}"
                cure = "Start the server there (manage.py runws), or correct the port."
            case TimeoutError():
                cause = f"port {port} does not answer in {self._timeout:g} s"
                cure = "Correct the address, or let the firewall in between pass the port."
            case _:
                cause = f"port {port} cannot be reached ({error})"
                cure = "Check the address, and the network of this machine."
        raise Refused(cause, cure) from error

    def _start_tls(self, plain: socket.socket) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        if self._insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            return context.wrap_socket(plain, server_hostname=self._uri.host)
        except ssl.SSLCertVerificationError as error:
            cause = f"TLS: the certificate is not good ({error.verify_message})"
            cure = "Mend the certificate, its chain and its names, or pass over it: --insecure."
            raise Refused(cause, cure) from error
        except TimeoutError as error:
            cause = f"TLS: no answer in {self._timeout:g} s"
            cure = "Does the port speak TLS? If not, write ws://"
            raise Refused(cause, cure) from error
        except OSError as error:  # ssl.SSLError, too
            cause = f"TLS: {getattr(error, 'reason', None) or error}"
            cure = "The port does not speak TLS, or not this one: write ws://, or mend the proxy."
            raise Refused(cause, cure) from error

    def _handshake(self, sock: socket.socket) -> str:
        """The subprotocol, in words, if one was agreed upon."""
        protocol = self._protocol
        request = protocol.connect()
        given = {name.lower() for name, _ in self._headers}
        for name in [name for name in request.headers if name.lower() in given]:
            del request.headers[name]
        for name, value in self._headers:
            request.headers[name] = value
        protocol.send_request(request)
        head = b""
        end = time.monotonic() + self._timeout
        try:
            self._flush(sock)
            while not HEAD_END.search(head) and len(head) < MAX_HEAD_BYTES:
                data = _receive(sock, end)
                if not data:
                    break
                head += data
        except TimeoutError as error:
            cause = f"no answer to the handshake in {self._timeout:g} s"
            cure = "on_connect, middleware or a proxy hangs; WS_CONNECT_TIMEOUT would end it."
            raise Refused(cause, cure) from error
        except OSError as error:
            cause = f"the connection was cut off during the handshake ({error})"
            cure = "Does the port speak TLS (wss://)? Otherwise the server's log says why."
            raise Refused(cause, cure) from error
        if (refused := refusal(head, self._uri.secure)) is not None:
            raise refused
        protocol.receive_data(head)
        if protocol.handshake_exc is not None:
            cause = f"the answer is no WebSocket's ({printable(str(protocol.handshake_exc))})"
            raise Refused(cause, "A proxy changes headers, or another server answers.")
        return f"subprotocol {protocol.subprotocol}" if protocol.subprotocol else ""

    def _ping(self, sock: socket.socket) -> None:
        protocol = self._protocol
        answer = Frame(Opcode.PONG, PING)
        end = time.monotonic() + self._timeout
        try:
            if protocol.state is OPEN:  # it may have been closed with the handshake
                protocol.send_ping(PING)
            while True:
                if answer in protocol.events_received():
                    return
                if protocol.state is not OPEN:
                    break
                self._flush(sock)
                data = _receive(sock, end)
                if data:
                    protocol.receive_data(data)
                else:
                    protocol.receive_eof()
        except TimeoutError as error:
            cause = f"open, but no answer to a ping in {self._timeout:g} s"
            cure = "A proxy keeps control frames back, or the server's event loop is blocked."
            raise Refused(cause, cure) from error
        except OSError as error:
            cause = f"open, but cut off before a ping was answered ({error})"
            raise Refused(cause, "The log of the server, or of the proxy, says why.") from error
        if isinstance(fault := protocol.parser_exc, PayloadTooBig | ProtocolError):
            cause = f"open, but what came then is not read ({printable(str(fault))})"
            raise Refused(cause, "It is too large, or no frame: does another server answer?")
        close = protocol.close_rcvd
        code = close.code if close is not None else 1006
        said = f" ({printable(close.reason)})" if close is not None and close.reason else ""
        raise Refused(f"accepted, and closed at once with {code}{said}", close_cure(code))

    def _close(self, sock: socket.socket) -> None:
        """As the protocol wants it. What the server does then is no matter any more."""
        protocol = self._protocol
        if protocol.state is OPEN:
            protocol.send_close(1000)
        with suppress(OSError):
            self._flush(sock)
            end = time.monotonic() + self._timeout
            while protocol.close_rcvd is None and (data := _receive(sock, end)):
                protocol.receive_data(data)
                protocol.events_received()  # which nobody wants, and which would pile up

    def _flush(self, sock: socket.socket) -> None:
        sock.sendall(b"".join(self._protocol.data_to_send()))


def _receive(sock: socket.socket, end: float) -> bytes:
    """Raises ``TimeoutError`` when it is later than ``end`` on the monotonic clock."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
    return sock.recv(65536)


def _since(began: float) -> float:
    return time.monotonic() - began
