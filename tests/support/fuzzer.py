"""Random bytes, heads and frames for a real server: ``python -m tests.support.fuzzer 900``.

The argument is how many seconds it runs; a second one is the seed. While it runs, and after it,
the server must answer a client that behaves, print no traceback of ours, and keep its memory.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.sync.client import connect

from tests.support.servers import DEFAULT, KINDS, Server

SITE, TESTS = "tests.integration.security.site.settings", "tests.settings"
PATHS = [
    "echo", "text", "bytes", "packed", "sync", "mixed", "limited", "topics", "private", "first",
    "numbers",
]  # fmt: skip
AT_ONCE = 20
ANSWER_SECONDS = 0.05
# What uvicorn itself prints about a client that breaks the protocol.
UVICORNS = re.compile(
    r"Invalid UTF-8 sequence received from client|ASGI callable returned without completing"
    r"|Invalid HTTP request received|Unsupported upgrade request|connection (rejected|open|closed)"
    r"|opening handshake failed"
)
# A close frame that is broken in its own way: uvicorn's protocol, where no code of ours runs.
ASSERTION = re.compile(r"^Fatal error on transport TCPTransport\nprotocol: <uvicorn\.")
BLOCK = re.compile(r"^(?:INFO|WARNING|ERROR|CRITICAL): ", re.MULTILINE)
VALUES: list[Any] = [
    0, -1, 2**63, 1e308, "", "\0", "x" * 600, "a" * 70_000, None, True, [], {}, [[]] * 50,
    {"token": "x"}, {"ticket": "a.b.c"}, {"type": "auth", "token": None}, "django_ws.user:1",
    "\0control", "room", ["a", "b"], [f"t{number}" for number in range(20)], "\ud7ff",
]  # fmt: skip


@dataclass
class Findings:
    seconds: float = 0.0
    seed: int = 0
    tries: Counter[str] = field(default_factory=Counter)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0  # seconds until the well-behaved client had its answer
    trouble: list[str] = field(default_factory=list)  # of ours
    uvicorns: Counter[str] = field(default_factory=Counter)


class Fuzzer:
    """What one random generator makes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    # Bytes

    def noise(self, most: int = 2000) -> bytes:
        return self.random.randbytes(self.random.randrange(most))

    def mutated(self, data: bytes) -> bytes:
        """With some bytes changed, cut out, doubled or put in."""
        changed = bytearray(data)
        for _ in range(self.random.randrange(1, 6)):
            at = self.random.randrange(len(changed) + 1)
            match self.random.randrange(4):
                case 0:
                    changed[at : at + 1] = self.random.randbytes(1)
                case 1:
                    del changed[at : at + self.random.randrange(1, 20)]
                case 2:
                    changed[at:at] = changed[at : at + self.random.randrange(1, 200)]
                case _:
                    changed[at:at] = self.noise(20)
        return bytes(changed)

    # Handshakes

    def head(self) -> bytes:
        """A handshake that the server may accept, with whatever headers."""
        chance = self.random.random
        path = f"/{self.random.choice(PATHS)}/"
        if chance() < 0.2:
            path = self.random.choice(
                ["/", "//", "/echo", "/any/%00%ff%0d%0a", "/any/" + "a" * 5000, "/../..",
                 f"/item/{'9' * 5000}/x/", "/item/1/a/%F0%9F%98%80", "*", "/%2e%2e/",
                 "http://evil.example/echo/"]
            )  # fmt: skip
        if chance() < 0.3:
            path += "?" + self.random.choice(
                ["token=x", "ticket=a.b.c", "token=%00", "&" * 2000, "a=1&" * 1500 + "token=x",
                 "ticket=" + "x" * 9000, "%ff=%ff", "token=a&token=b", "="]
            )  # fmt: skip
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(self.random.randbytes(16)).decode()}",
        ]
        extra = [
            "Origin: null", "Origin: http://127.0.0.1", "Origin: " + "x" * 5000,
            "Cookie: sessionid=" + "a" * 32, "Cookie: " + "a=b; " * 500, "Cookie: =; ;;=\"\\",
            "Authorization: Token x", "Authorization: Token", "Authorization: Ticket \xff",
            "Sec-WebSocket-Protocol: Token.x", "Sec-WebSocket-Protocol: chat.v1, Ticket.y",
            "Sec-WebSocket-Protocol: ,,", "Sec-WebSocket-Extensions: permessage-deflate",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            "Host: evil.example", "X-Forwarded-For: " + "1.2.3.4, " * 200, "Content-Length: 5",
            "Transfer-Encoding: chunked", "X-Long: " + "y" * 30_000, "Expect: 100-continue",
            "Upgrade: h2c",
        ]  # fmt: skip
        lines += self.random.sample(extra, self.random.choice([0, 0, 1, 1, 2, 4]))
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    # Frames

    def payload(self) -> bytes:
        match self.random.randrange(6):
            case 0:
                return self.noise(200)
            case 1:
                return self.mutated(json.dumps(self.random.choice(VALUES)).encode())
            case 2:
                return b"[" * self.random.randrange(20_000)
            case 3:
                return struct.pack("!H", self.random.randrange(0, 6000)) + self.noise(130)
            case 4:
                return self.compressed(json.dumps(self.random.choice(VALUES)).encode())
            case _:
                return json.dumps(self.random.choice(VALUES)).encode()

    def compressed(self, data: bytes) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -12)
        return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def frame(self) -> bytes:
        chance = self.random.random
        payload = self.payload()
        opcode = self.random.choice([0, 1, 1, 1, 2, 2, 8, 9, 10, *range(16)])
        first = opcode | (0x80 if chance() < 0.8 else 0)
        if chance() < 0.15:
            first |= self.random.choice([0x40, 0x20, 0x10])
        masked = 0x80 if chance() < 0.97 else 0
        size = len(payload) if chance() < 0.95 else self.random.choice([0, 2**16, 2**31, 2**63 - 1])
        if size < 126 and chance() < 0.97:
            head = bytes([first, masked | size])
        elif size < 65536 and chance() < 0.97:
            head = bytes([first, masked | 126]) + struct.pack("!H", size)
        else:
            head = bytes([first, masked | 127]) + struct.pack("!Q", size)
        mask = self.random.randbytes(4)
        if masked:
            pad = mask * (len(payload) // 4 + 1)
            payload = bytes(a ^ b for a, b in zip(payload, pad, strict=False))
        data = head + (mask if masked else b"") + payload
        return self.mutated(data) if chance() < 0.1 else data

    def visit(self) -> tuple[str, list[bytes]]:
        """The name of one attack, and what it sends, piece by piece."""
        frames = [self.frame() for _ in range(self.random.randrange(12))]
        match self.random.randrange(6):
            case 0:
                return "noise", [self.noise()]
            case 1:
                return "mutated head", [self.mutated(self.head()), *frames]
            case 2:
                return "pipelined", [self.head() + b"".join(frames)]
            case 3:
                return "half a head", [self.head()[: self.random.randrange(200)]]
            case _:
                return "frames", [self.head(), *frames]


class Attack:
    """One connection. ``end`` leaves by a close, by a reset, or half."""

    def __init__(self, port: int, fuzzer: Fuzzer) -> None:
        self._fuzzer = fuzzer
        self.name, pieces = fuzzer.visit()
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.settimeout(2)
        with suppress(OSError):  # the server may have had enough
            for number, piece in enumerate(pieces):
                self._socket.sendall(piece)
                if number == 0 and len(pieces) > 1:
                    self._socket.settimeout(ANSWER_SECONDS)
                    with suppress(TimeoutError):  # there is no answer to half a head
                        self._socket.recv(4096)
                    self._socket.settimeout(2)

    def end(self) -> None:
        with suppress(OSError):
            match self._fuzzer.random.randrange(3):
                case 0:
                    linger = struct.pack("ii", 1, 0)
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                case 1:
                    self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()


def numbers(server: Server) -> dict[str, int]:
    """What is left in the server, once the attacks are over."""
    until = time.monotonic() + 30
    while True:
        answer: dict[str, int] = json.loads(asked(server, "numbers", "1"))
        if answer["running"] == 1 or time.monotonic() > until:
            return answer
        time.sleep(0.05)


def asked(server: Server, path: str, message: str) -> str | bytes:
    """The answer that a client gets who behaves."""
    with connect(f"ws://127.0.0.1:{server.port}/{path}/", open_timeout=30, proxy=None) as client:
        client.send(message)
        return client.recv(30)


def attack(server: Server, seconds: float, seed: int, findings: Findings) -> None:
    fuzzer = Fuzzer(seed)
    end = time.monotonic() + seconds
    open_now: list[Attack] = []
    while time.monotonic() < end:
        made = Attack(server.port, fuzzer)
        findings.tries[made.name] += 1
        open_now.append(made)
        if len(open_now) > AT_ONCE:
            open_now.pop(fuzzer.random.randrange(len(open_now))).end()
        if findings.tries.total() % 50 == 0:
            began = time.monotonic()
            assert asked(server, "echo", '"still here"') == '"still here"'
            findings.slowest = max(findings.slowest, time.monotonic() - began)
    for left in open_now:
        left.end()


def run(seconds: float, seed: int, database: str) -> Findings:
    """Attack a server of its own; raises where it does not answer any more."""
    findings = Findings(seconds, seed)
    environment = {"DJANGO_SETTINGS_MODULE": SITE, "DJANGO_WS_TEST_DATABASE": database}
    server = Server(KINDS[DEFAULT], **environment)
    try:
        # Caches fill, and allocators keep what they once had: not counted as growth.
        attack(server, min(seconds, 60.0) / 3, seed + 1, Findings())
        findings.before = numbers(server)
        attack(server, seconds, seed, findings)
        findings.after = numbers(server)
        server.stop()
    finally:
        server.kill()
    read(server, findings)
    return findings


def read(server: Server, findings: Findings) -> None:
    """What the server has printed and logged, sorted."""
    printed = server.printed
    starts = [match.start() for match in BLOCK.finditer(printed)]
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        block = printed[start:stop]
        known = UVICORNS.search(block)
        if known:
            findings.uvicorns[known[0]] += 1
        if "/django_ws/" in block or (not known and ("Traceback" in block or "ERROR" in block[:5])):
            findings.trouble.append(block)
    for line in server.journal.lines:
        event = json.loads(line)
        if event["event"] == "log" and event["level"] in ("ERROR", "CRITICAL"):
            if ASSERTION.search(event["message"]) and event["error"] == "AssertionError()":
                findings.uvicorns["an assertion in its protocol"] += 1
                continue
            findings.trouble.append(f"{event['message']} {event['error']}")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    with tempfile.TemporaryDirectory() as folder:
        database = f"{folder}/db.sqlite3"
        migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
        # The settings of the tests: those of the site need a test that reads its journal.
        environment = {"DJANGO_SETTINGS_MODULE": TESTS, "DJANGO_WS_TEST_DATABASE": database}
        subprocess.run(migrate, check=True, env={**os.environ, **environment})
        findings = run(seconds, seed, database)
    for name, value in vars(findings).items():
        sys.stdout.write(f"{name}: {value}{os.linesep}")
    sys.exit(bool(findings.trouble))


if __name__ == "__main__":
    main()
