"""Django's ``path()`` and ``re_path()``, whose types know no target but views."""

from typing import Any

from django import urls

path: Any = urls.path
re_path: Any = urls.re_path
