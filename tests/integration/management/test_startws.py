"""``manage.py startws``: what it writes, what it leaves alone, and what it says."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from websockets.asyncio.client import connect

from tests.support.project import Uvicorn, environment, manage

_numbers = itertools.count()


@dataclass
class Project:
    """A new project with an app, both made by Django's own commands, in this process."""

    folder: Path
    name: str
    app: str

    def startws(self, *arguments: str) -> str:
        """Run the command; what it printed."""
        out = StringIO()
        call_command("startws", *(arguments or [self.app]), stdout=out)
        return out.getvalue()

    @property
    def ws_urls(self) -> Path:
        return self.folder / self.name / "ws_urls.py"

    @property
    def files(self) -> list[Path]:
        return [self.folder / self.app / name for name in ("ws.py", "test_ws.py")]

    @property
    def route(self) -> str:
        return f'path("ws/{self.app}/", {self.app.capitalize()}Handler, name="{self.app}")'

    def contents(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*.py")}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Project]:
    # Other names each time: what one test has imported means nothing to the next.
    number = next(_numbers)
    project = Project(tmp_path, f"mysite{number}", f"chat{number}")
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    call_command("startproject", project.name, ".")
    call_command("startapp", project.app)
    monkeypatch.syspath_prepend(tmp_path)
    settings.ROOT_URLCONF = f"{project.name}.urls"
    del settings.ROOT_WS_URLCONF
    del settings.ASGI_APPLICATION
    yield project
    for module in set(sys.modules) - before:
        if module.partition(".")[0] in (project.name, project.app):
            del sys.modules[module]


def test_writes_handler_test_and_routes(project: Project) -> None:
    before = set(project.contents())
    out = project.startws()
    assert set(project.contents()) - before == {*project.files, project.ws_urls}
    for path in (*project.files, project.ws_urls):
        assert f"wrote {path.relative_to(project.folder)}\n" in out
        compile(path.read_text("utf-8"), path, "exec")


def test_routes_name_the_handler(project: Project) -> None:
    project.startws()
    text = project.ws_urls.read_text("utf-8")
    assert f"from {project.app}.ws import {project.app.capitalize()}Handler\n" in text
    assert f"    {project.route},\n" in text


def test_handler_class_is_named_after_the_app(project: Project) -> None:
    app = f"{project.app}_live_room"
    call_command("startapp", app)
    project.startws(app)
    text = (project.folder / app / "ws.py").read_text("utf-8")
    assert f"class {project.app.capitalize()}LiveRoomHandler(WebSocketHandler):" in text


def test_the_project_package_may_be_the_app(project: Project) -> None:
    project.startws(project.name)
    assert (project.folder / project.name / "ws.py").exists()


def test_an_app_inside_a_package_is_named_by_its_path(project: Project) -> None:
    folder = project.folder / project.name / "live"
    folder.mkdir()
    (folder / "__init__.py").touch()
    project.startws(f"{project.name}.live")
    assert f"from {project.name}.live.ws import LiveHandler" in project.ws_urls.read_text("utf-8")
    assert 'path("ws/live/"' in project.ws_urls.read_text("utf-8")


def test_an_installed_app_is_found_by_its_label(project: Project, settings: Any) -> None:
    config = project.folder / project.app / "apps.py"
    config.write_text(
        "from django.apps import AppConfig\n\n\n"
        f"class Config(AppConfig):\n    name = {project.app!r}\n    label = 'talk'\n"
    )
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, project.app]
    project.startws("talk")
    assert all(path.exists() for path in project.files)


def test_existing_files_stop_it_and_nothing_changes(project: Project) -> None:
    project.startws()
    before = project.contents()
    with pytest.raises(CommandError) as caught:
        project.startws()
    for path in project.files:
        assert str(path.relative_to(project.folder)) in str(caught.value)
    assert "--force" in str(caught.value)
    assert project.contents() == before


def test_one_existing_file_stops_it_and_nothing_is_written(project: Project) -> None:
    handler, test = project.files
    handler.write_text("# mine\n")
    before = project.contents()
    with pytest.raises(CommandError, match="exists already: nothing was written") as caught:
        project.startws()
    assert test.name not in str(caught.value)
    assert project.contents() == before


def test_force_overwrites_handler_and_test(project: Project) -> None:
    for path in project.files:
        path.write_text("# mine\n")
    project.startws(project.app, "--force")
    assert all("# mine" not in path.read_text("utf-8") for path in project.files)


@pytest.mark.parametrize("options", [[], ["--force"]])
def test_existing_routes_are_left_alone_and_the_lines_are_printed(
    project: Project, options: list[str]
) -> None:
    project.ws_urls.write_text("urlpatterns = []  # mine\n")
    out = project.startws(project.app, *options)
    assert f"{project.name}/ws_urls.py exists already" in out
    assert f"from {project.app}.ws import {project.app.capitalize()}Handler\n" in out
    assert f"{project.route},\n" in out
    assert project.ws_urls.read_text("utf-8") == "urlpatterns = []  # mine\n"


def test_routes_that_name_the_handler_already_need_no_lines(project: Project) -> None:
    project.startws()
    assert "Add to it" not in project.startws(project.app, "--force")


def test_routes_of_an_app_with_a_similar_name_do_not_count(project: Project) -> None:
    project.ws_urls.write_text(f"from my{project.app}.ws import Other\n\nurlpatterns = []\n")
    assert "Add to it" in project.startws()


def test_stock_asgi_file_is_named_with_the_lines_for_it(project: Project) -> None:
    out = project.startws()
    assert f"In {project.name}/asgi.py replace application" in out
    assert "    application = get_websocket_application()\n" in out
    assert f"    uvicorn {project.name}.asgi:application\n" in out


def test_asgi_file_that_is_ours_needs_no_lines(project: Project) -> None:
    asgi = project.folder / project.name / "asgi.py"
    asgi.write_text("from django_ws import get_websocket_application\n")
    assert "replace application" not in project.startws()


def test_missing_asgi_setting_is_named_with_its_value(project: Project, settings: Any) -> None:
    line = f'    ASGI_APPLICATION = "{project.name}.asgi.application"\n'
    assert line in project.startws()
    settings.ASGI_APPLICATION = f"{project.name}.asgi.application"
    assert line not in project.startws(project.app, "--force")


def test_asgi_file_is_found_by_the_setting(project: Project, settings: Any) -> None:
    settings.ASGI_APPLICATION = f"{project.name}.serving.application"
    out = project.startws()
    assert "In asgi.py replace application" in out  # the setting names a file that is not there
    assert f"uvicorn {project.name}.serving:application" in out


def test_routes_go_where_the_setting_says(project: Project, settings: Any) -> None:
    settings.ROOT_WS_URLCONF = f"{project.app}.sockets"
    project.startws()
    assert (project.folder / project.app / "sockets.py").exists()
    assert not project.ws_urls.exists()


def test_paths_outside_of_the_current_folder_are_shown_whole(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder / project.name)
    assert f"wrote {project.folder / project.app / 'ws.py'}\n" in project.startws()


@pytest.mark.parametrize("root", ["module", "package"])
def test_routes_without_a_package_go_beside_the_root_urls(
    project: Project, settings: Any, root: str
) -> None:
    routes = f"ws_urls_of_{project.name}"
    if root == "module":
        settings.ROOT_URLCONF = f"urls_of_{project.name}"
        (project.folder / f"urls_of_{project.name}.py").write_text("urlpatterns = []\n")
    settings.ROOT_WS_URLCONF = routes
    project.startws()
    assert (project.folder / f"{routes}.py").exists()


def test_without_a_package_the_asgi_file_is_called_asgi(project: Project, settings: Any) -> None:
    settings.ROOT_URLCONF = f"urls_of_{project.name}"
    (project.folder / f"urls_of_{project.name}.py").write_text("urlpatterns = []\n")
    assert "uvicorn asgi:application" in project.startws()


@pytest.mark.parametrize("name", ["my-app", "2chat", "chat.", "", "class", "../chat", "chat/"])
def test_a_name_that_python_cannot_import_is_refused(project: Project, name: str) -> None:
    with pytest.raises(CommandError, match="not a valid name"):
        project.startws(name)


@pytest.mark.parametrize("name", ["nowhere_to_be_found", "nowhere.to.be.found"])
def test_an_unknown_name_is_refused_with_the_command_for_a_new_app(
    project: Project, name: str
) -> None:
    with pytest.raises(CommandError, match=r"startapp \w*found$"):
        project.startws(name)


def test_a_module_is_refused(project: Project) -> None:
    with pytest.raises(CommandError, match="is a module, not a package"):
        project.startws(f"{project.app}.models")


def test_a_folder_without_init_is_refused(project: Project) -> None:
    (project.folder / f"folder_of_{project.name}").mkdir()
    with pytest.raises(CommandError, match=r"without __init__\.py"):
        project.startws(f"folder_of_{project.name}")


@pytest.mark.parametrize("name", ["auth", "django_ws", "websockets", "email"])
def test_a_package_that_is_not_of_the_project_is_refused(project: Project, name: str) -> None:
    with pytest.raises(CommandError, match="not part of this project"):
        project.startws(name)


def test_missing_root_urlconf_is_told(project: Project, settings: Any) -> None:
    del settings.ROOT_URLCONF
    with pytest.raises(CommandError, match="neither it nor ROOT_URLCONF is set"):
        project.startws()


def test_routes_in_a_package_that_is_not_there_are_told(project: Project, settings: Any) -> None:
    settings.ROOT_WS_URLCONF = "nowhere_to_be_found.ws_urls"
    with pytest.raises(CommandError, match="no package 'nowhere_to_be_found'"):
        project.startws()


def test_a_file_that_cannot_be_written_is_told(project: Project) -> None:
    project.files[0].mkdir()
    with pytest.raises(CommandError, match=r"cannot write .*ws\.py: Is a directory"):
        project.startws(project.app, "--force")


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A project as ``django-admin startproject`` makes it, with django_ws and an app in it."""
    subprocess.run(
        [sys.executable, "-m", "django", "startproject", "mysite", tmp_path],
        env=environment(),
        timeout=30,
        check=True,
    )
    assert manage(tmp_path, "startapp", "chat").returncode == 0
    file = tmp_path / "mysite" / "settings.py"
    before = file.read_text("utf-8")
    after = before.replace(
        "INSTALLED_APPS = [", 'INSTALLED_APPS = [\n    "django_ws",\n    "chat",'
    )
    assert after != before
    file.write_text(after)
    return tmp_path


def test_new_project_passes_its_test_and_answers_a_real_client(stock: Path) -> None:
    started = manage(stock, "startws", "chat")
    assert started.returncode == 0, started.stderr

    tested = manage(stock, "test", PYTHONWARNINGS="error")
    assert tested.returncode == 0, tested.stderr
    assert "Ran 1 test" in tested.stderr

    asgi = stock / "mysite" / "asgi.py"
    text = asgi.read_text("utf-8")
    text = text.replace(
        "from django.core.asgi import get_asgi_application",
        "from django_ws import get_websocket_application",
    ).replace("application = get_asgi_application()", "application = get_websocket_application()")
    asgi.write_text(text)

    async def echoed(port: int) -> Any:
        async with connect(
            f"ws://127.0.0.1:{port}/ws/chat/", origin=None, open_timeout=10
        ) as client:
            await client.send('{"text": "hello"}')
            return json.loads(await asyncio.wait_for(client.recv(), 10))

    with Uvicorn(stock, "mysite.asgi:application") as server:
        assert asyncio.run(echoed(server.port)) == {"text": "hello"}


def test_project_that_fails_its_checks_is_no_obstacle(stock: Path) -> None:
    urls = stock / "mysite" / "urls.py"
    urls.write_text("import not_there\n")
    started = manage(stock, "startws", "chat")
    assert started.returncode == 0, started.stderr


def test_second_run_exits_with_one(stock: Path) -> None:
    assert manage(stock, "startws", "chat").returncode == 0
    again = manage(stock, "startws", "chat")
    assert again.returncode == 1
    assert "CommandError: chat/ws.py and chat/test_ws.py exist already" in again.stderr
