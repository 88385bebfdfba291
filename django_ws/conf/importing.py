"""Imports by dotted path, with an error that says why an import failed."""

from __future__ import annotations

import sys
from typing import Any

from django.utils.module_loading import import_string


def import_named(path: str) -> Any:
    """As Django's ``import_string``, but for an AttributeError inside of the module.

    Django takes it for a missing name, and says that the module does not define what it does.
    Raises ``ImportError``, and whatever the module raises.
    """
    try:
        return import_string(path)
    except ImportError as error:
        inner = error.__cause__
        if isinstance(inner, AttributeError):
            module = sys.modules.get(path.rpartition(".")[0])
            if module is None or inner.obj is not module:
                raise inner from None
        raise
