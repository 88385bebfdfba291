"""What a user installs: the public names, an import without side effects, a complete wheel."""

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import django_ws
from tests import ROOT


def test_public_names_are_these() -> None:
    assert sorted(django_ws.__all__) == [
        "CloseCode",
        "ConnectionClosed",
        "Reject",
        "TASK_DUPLICATE_STARTED",
        "TASK_WS_CLOSED",
        "WebSocketHandler",
        "WebSocketRequest",
        "__version__",
        "abroadcast",
        "abroadcast_many",
        "adisconnect",
        "broadcast",
        "broadcast_many",
        "broadcast_on_commit",
        "connection_topic",
        "disconnect",
        "get_websocket_application",
        "user_topic",
        "ws_reverse",
        "ws_url",
    ]


def test_each_public_name_exists() -> None:
    assert [name for name in django_ws.__all__ if not hasattr(django_ws, name)] == []


def test_misspelt_name_is_corrected() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import django_ws; django_ws.WebsocketHandler"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Did you mean: 'WebSocketHandler'?" in done.stderr


def test_task_cancel_messages_are_fixed() -> None:
    assert django_ws.TASK_DUPLICATE_STARTED == "task-duplicate-started"
    assert django_ws.TASK_WS_CLOSED == "task-websocket-closed"


def test_version_is_that_of_the_distribution() -> None:
    assert version("django-ws") == django_ws.__version__


def test_import_needs_no_settings_and_pulls_in_neither_redis_nor_a_server() -> None:
    program = (
        "import sys, django_ws\n"
        "from django.conf import settings\n"
        "unwanted = {'channels', 'daphne', 'hypercorn', 'redis', 'uvicorn', 'websockets', 'zmq'}\n"
        "print(settings.configured, sorted(unwanted & set(sys.modules)))\n"
    )
    # No DJANGO_SETTINGS_MODULE in the environment, and none that a parent process has set.
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "False []", "")


def test_wheel_holds_the_types_marker_the_licence_and_the_template(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        capture_output=True,
        timeout=50,
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    template = ROOT / "ws_urls_template"
    wanted = {
        f"django_ws/ws_urls_template/{path.relative_to(template).as_posix()}"
        for path in template.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted, "the template has no files"
    assert wanted <= names
    assert "django_ws/py.typed" in names
    assert f"django_ws-{django_ws.__version__}.dist-info/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {
        "django_ws",
        f"django_ws-{django_ws.__version__}.dist-info",
    }
