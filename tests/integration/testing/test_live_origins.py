"""What a real browser sends from a file and from a sandbox: refused, or without cookies."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from playwright.sync_api import Page, sync_playwright

from django_ws import WebSocketHandler
from django_ws.testing import WebSocketLiveServerTestCase
from tests.integration.testing.test_live import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.support.routes import path
from tests.support.untraced import untraced

SECONDS = 30.0


class OriginHandler(WebSocketHandler):
    async def on_open(self) -> None:
        headers = self.request.headers
        await self.send([headers.get("Origin"), self.request.COOKIES])


def page(request: HttpRequest) -> HttpResponse:
    """Whose own script, and one in a sandbox, open a socket; with a cookie."""
    sandbox = SCRIPT.replace("HOST", request.get_host()).replace('"', "&quot;")
    answer = HttpResponse(
        f'<title>a page</title><iframe sandbox="allow-scripts" srcdoc="{sandbox}">'
    )
    answer.set_cookie("theme", "dark")
    return answer


SCRIPT = """<title>waiting</title><body><script>
  const ws = new WebSocket("ws://HOST/ws/origin/");
  ws.onmessage = (event) => { document.body.textContent = event.data; };
  ws.onerror = () => { document.body.textContent = "refused"; };
</script>"""

websocket_urlpatterns = [path("ws/origin/", OriginHandler, name="origin")]
urlpatterns: list[Any] = [path("page/", page), *websocket_urlpatterns]


class OriginTests(WebSocketLiveServerTestCase):
    def said(self, frame: Any) -> str:
        frame.wait_for_function("!/^\\s*$|const ws/.test(document.body.textContent)")
        return str(frame.evaluate("document.body.textContent"))

    def visit(self, browser_page: Page) -> tuple[str, str]:
        """What the sandbox and the file are answered."""
        browser_page.goto(f"{self.live_server_url}/page/")
        sandbox = self.said(browser_page.frames[1])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "page.html"
            file.write_text(SCRIPT.replace("HOST", f"localhost:{self.server.port}"))
            browser_page.goto(f"file://{file}")
            return sandbox, self.said(browser_page)

    @override_settings(ROOT_URLCONF=__name__, ROOT_WS_URLCONF=__name__)
    def test_a_file_and_a_sandbox(self) -> None:
        with untraced(), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
            try:
                browser_page = browser.new_page()
                browser_page.set_default_timeout(SECONDS * 1000)
                assert self.visit(browser_page) == ("refused", "refused")
                with override_settings(WS_ALLOWED_ORIGINS=["null"]):
                    # Chromium says null of files as well; WebViews of Android say file://
                    answers = [json.loads(said) for said in self.visit(browser_page)]
                    assert answers == [["null", {}], ["null", {}]]
            finally:
                browser.close()
