"""What all tests share: how hard Hypothesis tries, and settings that are put back."""

import gc
from collections.abc import Iterator

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from hypothesis import settings

from django_ws.logs import throttled
from django_ws.testing import WebSocketClient

# No deadline for one example: how long it takes depends on what else the machine does.
settings.register_profile("suite", deadline=None, max_examples=50)
settings.register_profile("faults", deadline=None, max_examples=5000)
settings.load_profile("suite")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Ids without addresses: the workers of pytest-xdist must collect the same tests."""
    try:
        has_address = " at 0x" in repr(val)
    except Exception:  # some values of the tests are made to fail
        has_address = False
    return type(val).__name__ if has_address else None


def pytest_collection_finish() -> None:
    """The collector looks no more at what is there for good: it would, hundreds of times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def patient_clients() -> Iterator[None]:
    """Clients wait longer than a user's do: a busy machine is no failure."""
    defaults = WebSocketClient.__init__.__kwdefaults__ or {}
    assert defaults["timeout"] == 1.0
    defaults["timeout"] = 20.0
    yield
    defaults["timeout"] = 1.0


@pytest.fixture
def alice() -> User:
    """For tests with ``django_db``."""
    return User.objects.create_user("alice", password="secret")


@pytest.fixture
def bob() -> User:
    """For tests with ``django_db``."""
    return User.objects.create_user("bob", password="secret")


@pytest.fixture(autouse=True)
def log_is_not_throttled_by_other_tests() -> None:
    throttled.reset_all()


@pytest.fixture(autouse=True)
def settings_are_put_back() -> Iterator[None]:
    """Overrides undone in another order than they were made would leave their values behind."""
    before = vars(django_settings)["_wrapped"]
    yield
    assert vars(django_settings)["_wrapped"] is before
