"""The site's ASGI application, written as a project writes its own; it can be told to fail."""

import os
import signal
import time
from pathlib import Path

from django_ws import get_websocket_application
from django_ws.server import server
from django_ws.server.workers import shared_table

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.server.runws_site.settings")

# A file that says what to do, so that a later worker may fare otherwise than the first.
told = Path(os.environ.get("RUNWS_TOLD", os.devnull)).read_text()
if told == "raise":
    raise RuntimeError("the site is broken")
if told == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if told == "hang":
    os.write(1, b"hanging [%d]\n" % os.getpid())
    time.sleep(1000)

# However slow the machine is: a restart waits for who has connected.
server.SETTLE_SECONDS = 40.0

# However busy it is: a worker that has not had a turn for a while still counts to the others.
if "RUNWS_FRESH_SECONDS" in os.environ:
    shared_table.FRESH_SECONDS = float(os.environ["RUNWS_FRESH_SECONDS"])

application = get_websocket_application()
