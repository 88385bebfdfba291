"""The cases of the package ``autobahntestsuite``, read from it as they are.

They are written for Python 2, and one character of its ``str`` is one byte. Here their text is
read as Latin-1, so that this stays true; ``client.py`` turns it into bytes where it goes out, and
back where it comes in. Nothing of the package is imported as it is, nor copied.
"""

from __future__ import annotations

import binascii
import builtins
import re
import types
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autobahn.websocket import compress
from autobahn.websocket.utf8validator import Utf8Validator

# What Python 3 would not take, or would take for something else.
_CHANGES = (
    (re.compile(r"^( *)print\b.*", re.MULTILINE), r"\1pass"),  # in what no case calls
    (re.compile(r"\(object, Case, \)"), "(Case, )"),  # old classes were no objects
    (re.compile(r"(?<=\)) / (?=self\.)"), " // "),  # the one division, of whole numbers
)
_UNUSED = "case9_9_1"  # the suite does not run it, and it needs Twisted

CaseClass = type[Any]


def number_of(case: CaseClass) -> str:
    """ "1.1.1" of ``Case1_1_1``."""
    return case.__name__.removeprefix("Case").replace("_", ".")


def group_of(number: str) -> int:
    return int(number.partition(".")[0])


def cases(patterns: Sequence[str] = ("*",)) -> dict[str, CaseClass]:
    """Those whose numbers match any of the patterns ("7.*"), in the order of the suite."""
    return {
        number: case
        for number, case in _all_cases().items()
        if any(fnmatchcase(number, pattern) for pattern in patterns)
    }


@cache
def _all_cases() -> dict[str, CaseClass]:
    package = _Package()
    # Theirs compares pickles, in which equal texts may differ.
    package.load("case").Case.compare = lambda self, one, other: one == other
    return {number_of(case): case for case in package.load("__init__").Cases}


class _Package:
    def __init__(self) -> None:
        spec = find_spec("autobahntestsuite")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("there is no autobahntestsuite: run scripts/make-venv")
        self._folder = Path(spec.submodule_search_locations[0])
        self._names = {path.stem for path in (self._folder / "case").glob("case*.py")}
        self._modules: dict[str, Any] = {_UNUSED: types.ModuleType(_UNUSED)}
        self._replaced = {
            "autobahn.websocket.compress": types.SimpleNamespace(
                **{**vars(compress), "PerMessageDeflateOffer": _Offer}
            ),
            "autobahn.websocket.utf8validator": types.SimpleNamespace(Utf8Validator=_Validator),
            "binascii": types.SimpleNamespace(b2a_hex=_hex, hexlify=_hex),
            "pkg_resources": types.SimpleNamespace(
                resource_filename=lambda package, path: str(self._folder / path)
            ),
        }

    def load(self, name: str) -> Any:
        if name not in self._modules:
            module: Any = types.ModuleType(f"autobahntestsuite.case.{name}")
            module.__builtins__ = {
                **vars(builtins),
                "__import__": self._import,
                "xrange": range,
            }
            self._modules[name] = module
            path = self._folder / "case" / f"{name}.py"
            text = path.read_bytes().decode("latin-1").replace("\r\n", "\n")
            for pattern, replacement in _CHANGES:
                text = pattern.sub(replacement, text)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the escapes in their texts
                code = compile(text, str(path), "exec")
            exec(code, vars(module))
        return self._modules[name]

    def _import(self, name: str, *more: Any) -> Any:
        if name in self._names:
            return self.load(name)
        return self._replaced.get(name) or __import__(name, *more)


def as_bytes(value: Any) -> Any:
    """What was a ``str`` of Python 2; all else as it is."""
    return value.encode("latin-1") if isinstance(value, str) else value


def _hex(value: str | bytes) -> str:
    return binascii.b2a_hex(as_bytes(value)).decode()


class _Validator:
    def reset(self) -> None:
        self._validator = Utf8Validator()

    def validate(self, text: str) -> Any:
        return self._validator.validate(as_bytes(text))


class _Offer(compress.PerMessageDeflateOffer):
    """With the names that its arguments and attributes had: ``requestMaxWindowBits``."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**{_snake(name): value for name, value in named.items()})

    def __getattr__(self, name: str) -> Any:
        if (snake := _snake(name)) == name:
            raise AttributeError(name)
        return getattr(self, snake)


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name)
