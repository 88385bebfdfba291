"""Who gets error mails, as each Django wants the setting."""

from __future__ import annotations

import django


def admins_setting(*addresses: str) -> list[str | tuple[str, str]]:
    """Django 6.0 deprecates the pairs that older ones need."""
    if django.VERSION >= (6, 0):
        return [*addresses]
    return [("Ada", address) for address in addresses]
