"""The server of the example project's front end, without a browser."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.e2e.browsing import EXAMPLE

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_browser_that_leaves_at_once_leaves_no_traceback(
    says: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    from front_end.__main__ import FrontEnd

    with FrontEnd(0, "http://127.0.0.1") as server:
        with socket.create_connection(("127.0.0.1", server.server_port), 5) as browser:
            browser.sendall(says)
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        server.process_request_thread(*server.get_request())
    assert "Traceback" not in capsys.readouterr().err
