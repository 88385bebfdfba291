"""The watch of the log-ins: one check that hangs or fails stops no other."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from pytest_django import Settings

from django_ws.auth.login import Login
from django_ws.auth.recheck import Recheck, recheck_here
from django_ws.exceptions import LoginCheckError
from tests.support.asgi_peer import SECONDS, until

pytestmark = pytest.mark.django_db  # the threads look after their connections


class Robot:
    """No model: nothing is asked of the database."""

    is_authenticated = True

    def __init__(self, pk: int = 1) -> None:
        self.pk = pk


class Hanging(Login):
    """Its checks hang until ``go_on``, unless they are cancelled."""

    go_on: asyncio.Event
    started = 0

    @classmethod
    async def ended(cls, logins: Sequence[Any]) -> Collection[Any]:
        Hanging.started += 1
        await Hanging.go_on.wait()
        return []


class Stubborn(Hanging):
    @classmethod
    async def ended(cls, logins: Sequence[Any]) -> Collection[Any]:
        Hanging.started += 1
        while not Hanging.go_on.is_set():
            with suppress(asyncio.CancelledError):
                await Hanging.go_on.wait()
        raise LookupError("too late")


class InThread(Hanging):
    thread_goes_on = threading.Event()

    @classmethod
    async def ended(cls, logins: Sequence[Any]) -> Collection[Any]:
        Hanging.started += 1
        await sync_to_async(InThread.thread_goes_on.wait)(SECONDS)
        return []


class Cancelled(Hanging):
    @classmethod
    async def ended(cls, logins: Sequence[Any]) -> Collection[Any]:
        raise asyncio.CancelledError


def negative(logins: Sequence[Any]) -> list[Any]:
    return [login for login in logins if login.user.pk < 0]


class Simple(Login):
    """What it says comes through a thread, as from the database."""

    @classmethod
    async def ended(cls, logins: Sequence[Any]) -> Collection[Any]:
        return await sync_to_async(negative)(logins)


@pytest.fixture
async def watch(settings: Settings) -> AsyncIterator[Recheck]:
    settings.WS_CONNECT_TIMEOUT = SECONDS
    Hanging.go_on = asyncio.Event()
    Hanging.started = 0
    InThread.thread_goes_on.clear()
    here = recheck_here()
    yield here
    let_go()
    await until(lambda: here.is_idle)


def let_go() -> None:
    Hanging.go_on.set()
    InThread.thread_goes_on.set()


def ends() -> None: ...


KINDS = pytest.mark.parametrize("kind", [Hanging, Stubborn, InThread])


@KINDS
async def test_a_check_that_hangs_stops_those_of_no_other_class(
    watch: Recheck, kind: type[Login]
) -> None:
    hangs = asyncio.ensure_future(kind(Robot()).begin(ends))
    await until(lambda: Hanging.started)
    assert await Simple(Robot()).begin(ends) is True
    assert await Simple(Robot(-1)).begin(ends) is False
    assert not hangs.done()
    let_go()
    await asyncio.wait([hangs])


@KINDS
async def test_a_check_that_hangs_fails_when_its_time_is_up(
    watch: Recheck, kind: type[Login], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_CONNECT_TIMEOUT = 0.05
    for _ in range(2):
        waiting = [kind(Robot(number)).begin(ends) for number in range(3)]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [LoginCheckError] * 3
        assert "takes longer than 0.05 s" in str(answers[0])
    open_one = next(iter(watch._all))
    watch.check(open_one)
    await until(lambda: "1 log-in could not be checked, and stays" in caplog.text)
    settings.WS_CONNECT_TIMEOUT = SECONDS
    assert await Simple(Robot()).begin(ends) is True


async def test_one_that_heeds_no_cancellation_is_not_asked_beside_itself(
    watch: Recheck, settings: Settings
) -> None:
    settings.WS_CONNECT_TIMEOUT = 0.05
    for _ in range(3):
        with pytest.raises(LoginCheckError):
            await Stubborn(Robot()).begin(ends)
    assert Hanging.started == 1
    assert not watch.is_idle


async def test_the_next_look_is_as_good_as_any(watch: Recheck, settings: Settings) -> None:
    settings.WS_CONNECT_TIMEOUT = 0.05
    with pytest.raises(LoginCheckError):
        await Hanging(Robot()).begin(ends)
    settings.WS_CONNECT_TIMEOUT = SECONDS
    let_go()
    assert await Hanging(Robot()).begin(ends) is True


async def test_one_that_comes_back_late_is_asked_again(watch: Recheck, settings: Settings) -> None:
    settings.WS_CONNECT_TIMEOUT = 0.05
    with pytest.raises(LoginCheckError):
        await Stubborn(Robot()).begin(ends)
    settings.WS_CONNECT_TIMEOUT = SECONDS
    late = asyncio.ensure_future(Stubborn(Robot()).begin(ends))
    await until(lambda: watch._batches[Stubborn]._task is not None)
    Hanging.go_on.set()
    with pytest.raises(LoginCheckError, match="too late"):
        await late
    assert Hanging.started == 2


async def test_a_check_that_cancels_itself_has_failed(watch: Recheck) -> None:
    with pytest.raises(LoginCheckError, match=r"Cancelled\.ended\(\) was cancelled"):
        await Cancelled(Robot()).begin(ends)
    assert await Simple(Robot()).begin(ends) is True


async def test_nothing_stays_of_classes_whose_log_ins_have_gone(watch: Recheck) -> None:
    logins = [Simple(Robot()), Login(Robot())]
    assert await asyncio.gather(*[login.begin(ends) for login in logins]) == [True, True]
    await until(lambda: watch.is_idle)
    for login in logins:
        login.finish()
    assert (watch._batches, watch._timer) == ({}, None)
