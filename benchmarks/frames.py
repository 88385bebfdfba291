"""The bytes on the wire, made once before the clock runs: handshake, masked frames, answers."""

import base64
import json
from dataclasses import dataclass

_KEY = base64.b64encode(b"benchmark-nonce.").decode()
_MASK = b"\x5a\xc3\x17\x88"

CLOSE = b"\x88\x82" + _MASK + bytes(a ^ b for a, b in zip(b"\x03\xe8", _MASK, strict=False))
CLOSE_ANSWER = b"\x88\x02\x03\xe8"
ACCEPTED = b"HTTP/1.1 101 "


def handshake(port: int, path: str, deflate: bool = False) -> bytes:
    """What a browser sends, as far as servers care: a Host, and the Origin of the same site."""
    extensions = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
        "User-Agent: benchmark\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n{extensions}\r\n"
    ).encode()


def masked(text: str) -> bytes:
    """A client's text frame of at most 125 bytes."""
    data = text.encode()
    if len(data) > 125:
        raise ValueError(f"{len(data)} bytes need a longer header than this benchmark writes")
    mask = (_MASK * 32)[: len(data)]
    return bytes([0x81, 0x80 | len(data)]) + _MASK + bytes(map(int.__xor__, data, mask))


def unframed(frame: bytes) -> str:
    """The text of a server's frame. Raises ``ValueError`` unless it is one whole text frame."""
    if len(frame) < 2 or frame[0] != 0x81 or frame[1] != len(frame) - 2:
        raise ValueError(f"not one short text frame: {frame[:140]!r}")
    return frame[2:].decode()


@dataclass(frozen=True)
class Message:
    """What the clients say. As JSON, an answer may differ in white space but not in content."""

    path: str
    text: str

    def same(self, answer: str) -> bool:
        if self.path == "/text/":
            return answer == self.text
        return bool(json.loads(answer) == json.loads(self.text))


TEXT = Message("/text/", "0123456789abcdef" * 4)
JSON = Message(
    "/json/", '{"type":"chat","room":"lobby","user":"alice","text":"Hello there","id":4711}'
)
