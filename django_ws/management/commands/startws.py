"""``manage.py startws APP``: the first handler of an app, its route and its test."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_paths
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template import Context, Engine

import django_ws
from django_ws import conf
from django_ws.conf.application_path import application_path

ASGI_LINES = """\
from django_ws import get_websocket_application

application = get_websocket_application()"""


@dataclass(frozen=True)
class Target:
    """The app that gets the files: its dotted name and its folder."""

    name: str
    folder: Path

    @property
    def route_name(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def handler_name(self) -> str:
        """``chat_room`` becomes ``ChatRoomHandler``."""
        words = self.route_name.split("_")
        return "".join(word[:1].upper() + word[1:] for word in words) + "Handler"

    @property
    def route(self) -> str:
        return f'path("ws/{self.route_name}/", {self.handler_name}, name="{self.route_name}"),'

    @property
    def context(self) -> dict[str, str]:
        return {
            "app_name": self.name,
            "handler_name": self.handler_name,
            "route_name": self.route_name,
            "route_path": f"ws/{self.route_name}/",
        }


class Command(BaseCommand):
    help = (
        "Writes APP/ws.py with a first WebSocket handler, APP/test_ws.py with its test, and "
        "ws_urls.py beside the root urls.py. An existing ws_urls.py is never touched: the "
        "lines to add to it are printed."
    )
    # It must work in a project whose WebSocket part is not there yet.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("app", metavar="APP", help="label of an app, or path.to.package")
        parser.add_argument(
            "--force", action="store_true", help="overwrite APP/ws.py and APP/test_ws.py"
        )

    def handle(self, *args: Any, app: str, force: bool, **options: Any) -> None:
        target = find_target(app)
        routes = find_ws_urls()
        files = {name: target.folder / name for name in ("ws.py", "test_ws.py")}
        existing = [path for path in files.values() if path.exists()]
        if existing and not force:
            names = " and ".join(map(shown, existing))
            raise CommandError(
                f"{names} exist{'s' if len(existing) == 1 else ''} already: nothing was written. "
                "Run it again with --force to overwrite."
            )
        had_routes = routes.exists()
        if not had_routes:
            files["ws_urls.py"] = routes
        # Everything is rendered before anything is written.
        texts = {path: render(name, target) for name, path in files.items()}
        for path, text in texts.items():
            try:
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise CommandError(f"cannot write {shown(path)}: {error.strerror}") from error
            self.stdout.write(self.style.SUCCESS(f"wrote {shown(path)}"))
        self.stdout.write(next_steps(target, routes if had_routes else None))


def find_target(app: str) -> Target:
    """The app with this label or dotted name. Raises ``CommandError`` saying why there is none."""
    for part in app.split("."):
        if not part.isidentifier() or keyword.iskeyword(part):
            raise CommandError(
                f"{app!r} is not a valid name: give the label of an app, or the dotted path of a "
                "package, for example 'chat'."
            )
    try:
        config = apps.get_app_config(app)
    except LookupError:
        target = Target(app, find_package(app))
    else:
        target = Target(config.name, Path(config.path))
    if is_foreign(target.folder):
        raise CommandError(
            f"{app!r} is {target.name} in {target.folder}, which is not part of this project. "
            "Give one of your own apps."
        )
    return target


def find_package(name: str) -> Path:
    spec = spec_of(name)
    if spec is None:
        raise CommandError(
            f"no app and no package is named {name!r}. Is it in INSTALLED_APPS? "
            f"A new one: python manage.py startapp {name.rpartition('.')[2]}"
        )
    if not spec.submodule_search_locations:
        raise CommandError(f"{name!r} is a module, not a package: give the package of an app.")
    folder = Path(next(iter(spec.submodule_search_locations)))
    if spec.origin is None:
        raise CommandError(
            f"{name!r} is a folder without __init__.py ({folder}), so the test runner would not "
            "look into it. Add the file, or give the package of an app."
        )
    return folder


def find_ws_urls() -> Path:
    """The file of the module ROOT_WS_URLCONF, there or not. Imports nothing but its parents."""
    try:
        module = conf.read("ROOT_WS_URLCONF")
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    spec = spec_of(module)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin)
    parent, _, last = module.rpartition(".")
    # Without a parent it stands where the outermost package or module of ROOT_URLCONF stands.
    beside = spec_of(parent or settings.ROOT_URLCONF.partition(".")[0])
    if beside is not None and parent and beside.submodule_search_locations:
        return Path(next(iter(beside.submodule_search_locations))) / f"{last}.py"
    if beside is not None and not parent and beside.origin is not None:
        origin = Path(beside.origin)
        folder = origin.parent.parent if beside.submodule_search_locations else origin.parent
        return folder / f"{last}.py"
    raise CommandError(
        f"ROOT_WS_URLCONF is {module!r}, but there is no package {parent or module!r} to put it "
        "into. Check the settings ROOT_WS_URLCONF and ROOT_URLCONF."
    )


def spec_of(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a missing parent; __main__, which has no spec
        return None


def is_foreign(folder: Path) -> bool:
    """Whether this is an installed package: Django's own apps, third parties' apps."""
    paths = get_paths()
    places = [Path(paths[key]) for key in ("stdlib", "purelib", "platlib")]
    places.append(Path(django_ws.__file__).parent)
    return any(folder.resolve().is_relative_to(place.resolve()) for place in places)


def render(name: str, target: Target) -> str:
    # In the wheel the templates are inside the package, in a checkout beside it.
    package = Path(django_ws.__file__).parent
    folders = [package / "ws_urls_template", package.parent / "ws_urls_template"]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    engine = Engine(dirs=[str(folder)], autoescape=False)
    template = engine.get_template(f"{name}-tpl")
    return template.render(Context(target.context, autoescape=False))


def next_steps(target: Target, existing_routes: Path | None) -> str:
    steps = []
    if existing_routes is not None and not mentions(existing_routes, f"{target.name}.ws"):
        steps.append(
            f"{shown(existing_routes)} exists already. Add to it:\n\n"
            f"from {target.name}.ws import {target.handler_name}\n\n{target.route}"
        )
    configured = getattr(settings, "ASGI_APPLICATION", None)
    asgi = application_path().rpartition(".")[0]
    spec = spec_of(asgi)
    file = Path(spec.origin) if spec is not None and spec.origin is not None else None
    # Read, not imported: importing it may start things.
    if file is None or not mentions(file, "get_websocket_application"):
        steps.append(
            f"In {shown(file) if file else 'asgi.py'} replace application (and its import):\n\n"
            f"{ASGI_LINES}"
        )
    if not configured:
        steps.append(f'Name it in the settings:\n\nASGI_APPLICATION = "{asgi}.application"')
    steps.append(f"Run the test:\n\npython manage.py test {target.name}")
    steps.append(
        f"Serve it at ws://127.0.0.1:8000/ws/{target.route_name}/ with:\n\n"
        f"uvicorn {asgi}:application"
    )
    numbered = [f"{number}. {indented(step)}" for number, step in enumerate(steps, 1)]
    return "\nNext:\n\n" + "\n\n".join(numbered)


def mentions(file: Path, name: str) -> bool:
    pattern = rf"(?<![\w.]){re.escape(name)}(?!\w)"
    return re.search(pattern, file.read_text(encoding="utf-8")) is not None


def indented(step: str) -> str:
    first, *rest = step.splitlines()
    return "\n".join([first, *(f"    {line}" if line else "" for line in rest)])


def shown(path: Path) -> str:
    """The path as seen from the current folder, where it is below it."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)
