"""What a user installs: the public names, an import without side effects, a complete wheel."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from importlib.metadata import version
from pathlib import Path

import pytest

import django_ws
from tests import ROOT

pytestmark = pytest.mark.timeout(300)

LINK = re.compile(r"\]\(([^)]+)\)")


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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        env={},  # without the variables by which subprocesses are measured
        capture_output=True,
        timeout=100,
        check=True,
    )
    return folder


def archive_in(built: Path) -> Path:
    [archive] = built.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def unpacked(built: Path) -> Path:
    """The sdist as who downloads it has it."""
    with tarfile.open(archive_in(built)) as sdist:
        sdist.extractall(built, filter="data")
    return built / f"django_ws-{django_ws.__version__}"


def test_wheel_holds_the_types_marker_the_licence_and_the_template(built: Path) -> None:
    [wheel] = built.glob("*.whl")
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


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only git knows what must be in it")
def test_sdist_holds_every_file_of_the_repository(built: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    files = [line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    with tarfile.open(archive_in(built)) as sdist:
        packed = [name.partition("/")[2] for name in sdist.getnames()]
    assert sorted(packed) == sorted(["PKG-INFO", *files])


def test_tests_of_the_sdist_can_be_collected(unpacked: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-m", ""],
        cwd=unpacked,
        env={},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line.partition(":")[0] for line in done.stdout.splitlines()}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert files
    assert files <= found


def test_extras_are_those_of_users(unpacked: Path) -> None:
    metadata = message_from_string((unpacked / "PKG-INFO").read_text())
    assert metadata.get_all("Provides-Extra") == ["server", "zmq"]


def test_readme_of_the_package_index_has_absolute_links_alone(unpacked: Path) -> None:
    readme = message_from_string((unpacked / "PKG-INFO").read_text()).get_payload()
    assert isinstance(readme, str)
    assert "Three steps to a socket" in readme
    assert [link for link in LINK.findall(readme) if not link.startswith("https://")] == []
