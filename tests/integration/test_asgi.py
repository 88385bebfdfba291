"""The entry point: http, websocket and lifespan in one application."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_django import Settings

from tests import ROOT


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__


def test_entry_point_sets_django_up(tmp_path: Path) -> None:
    (tmp_path / "mysettings.py").write_text(
        "SECRET_KEY = 'x'\nROOT_URLCONF = 'urls'\nINSTALLED_APPS = ['django.contrib.auth', "
        "'django.contrib.contenttypes', 'django.contrib.sessions']\n"
    )
    program = (
        "import os\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'mysettings'\n"
        "from django_ws import get_websocket_application\n"
        "application = get_websocket_application()\n"
        "from django.contrib.auth.models import User\n"
        "print(User._meta.label)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,  # where coverage keeps its data
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("auth.User", "")
