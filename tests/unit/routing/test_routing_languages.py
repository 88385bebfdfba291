"""Routes inside ``i18n_patterns``: the language of the path decides, for handshakes and URLs."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.core.checks import run_checks
from django.test import RequestFactory
from django.utils import translation
from django.utils.translation import get_language, gettext_lazy
from pytest_django import Settings

from django_ws import WebSocketHandler, ws_reverse, ws_url
from django_ws.routing import resolve
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests import ROOT
from tests.support.routes import path


class Language(WebSocketHandler):
    async def on_open(self) -> None:
        match = self.request.resolver_match
        assert match is not None
        await self.send([match.view_name, self.kwargs, get_language()])


def module(name: str, urlpatterns: list[Any]) -> ModuleType:
    made = ModuleType(name)
    made.urlpatterns = urlpatterns  # type: ignore[attr-defined]
    return made


@pytest.fixture
def prefix_default(request: pytest.FixtureRequest) -> bool:
    return bool(getattr(request, "param", True))


@pytest.fixture(autouse=True)
def routes(settings: Settings, monkeypatch: pytest.MonkeyPatch, prefix_default: bool) -> None:
    settings.LANGUAGE_CODE = "en"
    settings.LANGUAGES = [("en", "English"), ("de", "German"), ("pt-br", "Portuguese")]
    settings.USE_I18N = True
    name = f"routes_by_language_{prefix_default}"
    urlpatterns = [
        path("plain/", Language, name="plain"),
        *i18n_patterns(
            path("h/", Language, name="h"),
            path("room/<slug:room>/", Language, name="room"),
            # As a translated route: "Home" is "Start" in Django's own German catalogue.
            path(gettext_lazy("Home"), Language, name="translated"),
            prefix_default_language=prefix_default,
        ),
    ]
    monkeypatch.setitem(sys.modules, name, module(name, urlpatterns))
    settings.ROOT_WS_URLCONF = name


async def answer(url: str) -> Any:
    try:
        async with WebSocketClient(url) as ws:
            return await ws.receive()
    except HandshakeRejected as refused:
        return refused.status


CASES: list[tuple[str, Any]] = [
    ("/de/h/", ["h", {}, "en"]),
    ("/en/h/", ["h", {}, "en"]),
    ("/pt-br/h/", ["h", {}, "en"]),
    ("/de/h", ["h", {}, "en"]),
    ("/de/room/lobby/", ["room", {"room": "lobby"}, "en"]),
    ("/plain/", ["plain", {}, "en"]),
    ("/h/", 404),
    ("/fr/h/", 404),
    ("/de/plain/", 404),
    ("/de/", 404),
    ("/de/Start", ["translated", {}, "en"]),
    ("/en/Home", ["translated", {}, "en"]),
    ("/de/Home", 404),
]


@pytest.mark.parametrize(("url", "expected"), CASES)
async def test_the_language_of_the_path_decides_and_is_active_in_no_hook(
    url: str, expected: Any
) -> None:
    assert await answer(url) == expected
    assert await answer(url) == expected  # also from what was kept of the first time


@pytest.mark.parametrize("prefix_default", [False], indirect=True)
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/h/", ["h", {}, "en"]),
        ("/de/h/", ["h", {}, "en"]),
        ("/room/de/", ["room", {"room": "de"}, "en"]),
        ("/en/h/", 404),
        ("/fr/h/", 404),
        ("/plain/", ["plain", {}, "en"]),
        ("/de/plain/", 404),
    ],
)
async def test_the_default_language_may_have_no_prefix(url: str, expected: Any) -> None:
    assert await answer(url) == expected


[_recipe] = re.findall(
    r"```python\n(from django\.utils import translation\n.*?)```",
    (ROOT / "docs" / "recipes.md").read_text(),
    re.DOTALL,
)
recipe: dict[str, Any] = {}
exec(_recipe, recipe)
LocaleMiddleware = recipe["LocaleMiddleware"]


@pytest.mark.parametrize(("url", "language"), [("/de/h/", "de"), ("/pt-br/h/", "pt-br")])
async def test_with_the_recipe_the_language_is_active_in_hooks(
    settings: Settings, url: str, language: str
) -> None:
    settings.WS_MIDDLEWARE = [f"{__name__}.LocaleMiddleware"]
    assert await answer(url) == ["h", {}, language]


async def test_with_the_recipe_the_browser_decides_for_other_routes(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [f"{__name__}.LocaleMiddleware"]
    async with WebSocketClient("/plain/", headers={"Accept-Language": "de"}) as ws:
        assert await ws.receive() == ["plain", {}, "de"]


async def test_a_language_that_happens_to_be_active_changes_nothing() -> None:
    with translation.override("de"):
        for url, expected in CASES:
            result = await answer(url)
            assert (result if result == 404 else result[:2]) == (
                expected if expected == 404 else expected[:2]
            )


@pytest.mark.parametrize("prefix_default", [True, False], indirect=True)
@pytest.mark.parametrize("language", ["en", "de", "pt-br", None])
@pytest.mark.parametrize("name", ["h", "plain", "translated"])
async def test_every_url_that_is_given_out_leads_to_its_handler(
    language: str | None, name: str
) -> None:
    request = RequestFactory().get("/")
    with translation.override(language):
        url, whole = ws_reverse(name), ws_url(request, name)
    assert whole == f"ws://testserver{url}"
    assert (await answer(url))[0] == name


async def test_with_debug_a_404_lists_the_routes_of_the_language(settings: Settings) -> None:
    settings.DEBUG = True
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/de/nothing/").__aenter__()
    assert "\nde/h/\n" in refused.value.reason


async def test_checks_find_nothing_wrong_with_them() -> None:
    assert run_checks(tags=["django_ws"]) == []


async def test_without_internationalisation_there_are_no_prefixes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.USE_I18N = False
    name = "routes_without_languages"
    urlpatterns = i18n_patterns(path("h/", Language, name="h"))
    monkeypatch.setitem(sys.modules, name, module(name, urlpatterns))
    settings.ROOT_WS_URLCONF = name
    assert await answer("/h/") == ["h", {}, "en"]
    assert await answer("/de/h/") == 404


async def test_routes_without_languages_ask_for_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "routes_without_prefixes"
    routes = module(name, [path("h/", Language, name="h")])
    monkeypatch.setitem(sys.modules, name, routes)
    settings.ROOT_WS_URLCONF = name
    asked: list[str] = []
    monkeypatch.setattr(resolve, "language_of", asked.append)
    assert await answer("/h/") == ["h", {}, "en"]
    assert await answer("/de/h/") == 404
    assert asked == []
