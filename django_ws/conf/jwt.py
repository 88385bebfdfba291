"""Parses ``WS_JWT``. No error message shows its values: one may be the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class JWTConfig:
    """Which JSON Web Tokens are taken, and which user each stands for.

    ``user_claim`` is the claim that names the user, ``user_field`` the field of the user model
    that it names; ``leeway`` (seconds) is how far clocks may differ. Where ``close_at_expiry``
    is False, a connection stays open beyond its token's ``exp``.
    """

    key: str | bytes = field(repr=False)
    algorithms: tuple[str, ...]
    audience: str | tuple[str, ...] | None = None
    issuer: str | tuple[str, ...] | None = None
    user_claim: str = "sub"
    user_field: str = "pk"
    leeway: float = 0.0
    close_at_expiry: bool = True


_KEYS = {each.name for each in fields(JWTConfig)}


def jwt_config(value: Any) -> JWTConfig | None:
    """None for None. Raises ``ValueError`` saying what is wrong."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError("it is not a dict")
    if unknown := value.keys() - _KEYS:
        raise ValueError(f"unknown keys: {', '.join(sorted(map(str, unknown)))}")
    given = dict(value)
    if not isinstance(given.get("key"), str | bytes) or not given["key"]:
        raise ValueError("'key' is not a str or bytes with something in it")
    given["algorithms"] = _algorithms(given.get("algorithms"))
    for name in given.keys() & {"audience", "issuer"}:
        given[name] = _one_or_more(name, given[name])
    for name in given.keys() & {"user_claim", "user_field"}:
        if not isinstance(given[name], str) or not given[name]:
            raise ValueError(f"{name!r} is not a name")
    leeway = given.get("leeway", 0)
    if isinstance(leeway, bool) or not isinstance(leeway, int | float) or not 0 <= leeway < 1e9:
        raise ValueError("'leeway' is not a number of seconds")
    if not isinstance(given.get("close_at_expiry", True), bool):
        raise ValueError("'close_at_expiry' is neither True nor False")
    return JWTConfig(**given)


def _algorithms(value: Any) -> tuple[str, ...]:
    names = _names(value)
    if not names:
        raise ValueError("'algorithms' is not a list of names with at least one in it")
    if any(name.lower() == "none" for name in names):
        raise ValueError("'algorithms' has 'none', with which anybody is whoever they say")
    if len({name.startswith("HS") for name in names}) > 1:
        raise ValueError(
            "'algorithms' mixes HS, whose key is a secret, with others, whose key is public: "
            "who knows the public key could sign with it"
        )
    return names


def _one_or_more(name: str, value: Any) -> str | tuple[str, ...] | None:
    if value is None or (isinstance(value, str) and value):
        return value
    names = _names(value)
    if not names:
        raise ValueError(f"{name!r} is neither a str nor a list of them")
    return names


def _names(value: Any) -> tuple[str, ...]:
    """Those of a list; none where it is no list of them."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return ()
    return tuple(value) if all(isinstance(item, str) and item for item in value) else ()
