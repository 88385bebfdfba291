"""Who connects may be of another model than the site's users: a key does not make a person."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test.utils import isolate_apps
from django.utils.functional import SimpleLazyObject
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast, adisconnect, user_topic
from django_ws.exceptions import InvalidTopic
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, route
from tests.user_models.models import DeviceToken

people: dict[str, Any] = {}


def logging_in(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        ws.request.user = people[str(ws.request.GET["who"])]
        await func(ws)

    return middleware


class Own(WebSocketHandler):
    def get_topics(self) -> list[str]:
        return [user_topic(self.request.user)]


@pytest.fixture
async def same_key() -> Any:
    """A user and a device with the same primary key."""
    alice = await User.objects.acreate(username="alice", pk=7)
    device = await DeviceToken.objects.acreate(pk=7, key="k", user=alice)
    device.is_authenticated = True  # type: ignore[attr-defined]
    people.update(alice=alice, device=device)
    with route(Own, middleware=[f"{__name__}.logging_in"]):
        yield alice, device
    people.clear()


def connected(who: str) -> WebSocketClient:
    return WebSocketClient(f"{PATH}?who={who}")


@pytest.mark.django_db(transaction=True)
class TestTheSameKey:
    async def test_is_not_the_same_topic(self, same_key: Any) -> None:
        alice, device = same_key
        async with connected("alice") as hers, connected("device") as its:
            await abroadcast(user_topic(alice), "for alice")
            assert await hers.receive() == "for alice"
            await abroadcast(user_topic(device), "for the device")
            assert await its.receive() == "for the device"
            await hers.receive_nothing()
            await its.receive_nothing()

    @pytest.mark.parametrize(("ended", "stays"), [("alice", "device"), ("device", "alice")])
    async def test_is_not_ended_together(self, same_key: Any, ended: str, stays: str) -> None:
        async with connected(ended) as one, connected(stays) as other:
            await adisconnect(user_topic(people[ended]), code=4403)
            assert await one.wait_closed() == 4403
            await abroadcast(user_topic(people[stays]), "still there")
            assert await other.receive() == "still there"

    async def test_is_not_counted_together(self, same_key: Any, settings: Settings) -> None:
        settings.WS_MAX_CONNECTIONS_PER_USER = 1
        async with connected("alice"), connected("device"):
            for who in ("alice", "device"):
                with pytest.raises(HandshakeRejected) as refused:
                    await connected(who).__aenter__()
                assert refused.value.status == 429

    async def test_a_save_of_the_user_says_nothing_to_the_device(self, same_key: Any) -> None:
        alice, device = same_key
        async with connected("alice") as hers, connected("device") as its:
            alice.is_active = False
            await sync_to_async(alice.save)()
            assert await hers.wait_closed() == 4401
            await abroadcast(user_topic(device), "still there")
            assert await its.receive() == "still there"


ORDINARY = "django_ws.user:7"


def test_topics_of_the_sites_users_are_as_they_were() -> None:
    assert user_topic(User(pk=7)) == ORDINARY
    assert user_topic(SimpleLazyObject(lambda: User(pk=7))) == ORDINARY
    # Of no model: what a token stands for without a query.
    assert user_topic(SimpleNamespace(pk=7, is_authenticated=True)) == ORDINARY
    assert user_topic(SimpleNamespace(pk=7, _meta=SimpleNamespace())) == ORDINARY


@isolate_apps("tests.user_models")
def test_proxies_and_children_of_the_user_model_are_the_same_person() -> None:
    class Proxy(User):
        class Meta:
            proxy = True
            app_label = "auth_tests"

    class Child(User):
        class Meta:
            app_label = "auth_tests"

    assert user_topic(Proxy(pk=7)) == ORDINARY
    assert user_topic(Child(pk=7)) == ORDINARY


@isolate_apps("tests.user_models")
def test_other_models_have_their_label_and_proxies_that_of_theirs() -> None:
    class Proxy(DeviceToken):
        class Meta:
            proxy = True
            app_label = "auth_tests"

    assert user_topic(DeviceToken(pk=7)) == "django_ws.user.auth_tests.devicetoken:7"
    assert user_topic(Proxy(pk=7)) == user_topic(DeviceToken(pk=7))
    assert user_topic(SimpleLazyObject(lambda: DeviceToken(pk=7))) == user_topic(DeviceToken(pk=7))


def test_the_setting_says_who_the_sites_users_are(settings: Settings) -> None:
    settings.AUTH_USER_MODEL = "auth_tests.DeviceToken"
    assert user_topic(DeviceToken(pk=7)) == ORDINARY
    assert user_topic(User(pk=7)) == "django_ws.user.auth.user:7"


def test_a_site_without_users_has_other_models_alone(settings: Settings) -> None:
    settings.INSTALLED_APPS = ["django_ws"]
    assert user_topic(DeviceToken(pk=7)) == "django_ws.user.auth_tests.devicetoken:7"


@pytest.mark.parametrize("topic", ["django_ws.user:7", "django_ws.user.auth_tests.devicetoken:7"])
async def test_no_room_can_be_called_like_one(topic: str) -> None:
    with pytest.raises(InvalidTopic, match="reserved: use user_topic"):
        await abroadcast(topic, 1)
