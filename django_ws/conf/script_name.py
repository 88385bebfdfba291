"""The path below which a proxy serves the site: ``--root-path``, ``FORCE_SCRIPT_NAME``."""

from __future__ import annotations

from django_ws.types import Scope


def normal_script_name(text: str) -> str:
    """One slash at the beginning, none at the end; nothing for the root.

    Servers put it before paths, and Django takes it off them, as it is written.
    """
    name = text.strip("/")
    return f"/{name}" if name else ""


def normal_scope(scope: Scope) -> Scope:
    """With such a ``root_path``, and the paths that go with it; itself where nothing is wrong."""
    root_path = scope.get("root_path") or ""
    normal = normal_script_name(root_path)
    if root_path == normal:
        return scope
    changed = {**scope, "root_path": normal, "path": _moved(scope["path"], root_path, normal)}
    if scope.get("raw_path"):
        raw_path = scope["raw_path"].decode("latin-1")
        changed["raw_path"] = _moved(raw_path, root_path, normal).encode("latin-1")
    return changed


def _moved(path: str, before: str, after: str) -> str:
    if not path.startswith(before):
        return path
    rest = path.removeprefix(before)
    return after + (rest if rest.startswith("/") else f"/{rest}")
