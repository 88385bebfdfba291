"""``python -m front_end --port 8001 --site http://127.0.0.1:8000``: serves the page."""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHARED = HERE.parent / "pages" / "static" / "pages"

HTML, CSS, JAVASCRIPT = (f"text/{kind}; charset=utf-8" for kind in ("html", "css", "javascript"))
FILES = {
    "/": (HERE / "index.html", HTML),
    "/front_end.js": (HERE / "front_end.js", JAVASCRIPT),
    "/pages/connection.js": (SHARED / "connection.js", JAVASCRIPT),
    "/pages/demo.css": (SHARED / "demo.css", CSS),
    "/pages/icon.svg": (SHARED / "icon.svg", "image/svg+xml"),
}


class FrontEnd(ThreadingHTTPServer):
    """On 127.0.0.1. ``site`` is the origin of the Django project that the page talks to."""

    def __init__(self, port: int, site: str) -> None:
        super().__init__(("127.0.0.1", port), Page)
        self.made = {"/site.js": (f"export const site = {json.dumps(site)};\n", JAVASCRIPT)}
        self.policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            f"connect-src {site} {site.replace('http', 'ws', 1)}; form-action 'none'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes to another page has no use for the rest of this one."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Page(BaseHTTPRequestHandler):
    server: FrontEnd

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in self.server.made:
            text, kind = self.server.made[path]
            self.answer(text.encode(), kind)
        elif path in FILES:
            file, kind = FILES[path]
            self.answer(file.read_bytes(), kind)
        else:
            self.send_error(404)

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m front_end", description=__doc__)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--site", default="http://127.0.0.1:8000", help="the origin of the site")
    options = parser.parse_args()
    with FrontEnd(options.port, options.site) as server:
        sys.stderr.write(f"Front end running on http://127.0.0.1:{server.server_port}\n")
        server.serve_forever()


if __name__ == "__main__":
    main()
