"""A site with a user model of its own, kept in a database of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import ROOT

MODELS = """
import uuid

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models


class Manager(BaseUserManager):
    def get_queryset(self):
        return super().get_queryset().filter(hidden=False)

    def create_user(self, email, password=None):
        user = self.model(email=email)
        user.set_password(password)
        user.save(using=self._db)
        return user


class Person(AbstractBaseUser, PermissionsMixin):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    is_active = models.BooleanField(default=True)
    hidden = models.BooleanField(default=False)
    USERNAME_FIELD = "email"
    objects = Manager()


class Member(Person):
    class Meta:
        proxy = True


class Router:
    def db_for_read(self, model, **hints):
        return "default" if model._meta.app_label == "sessions" else "users"

    db_for_write = db_for_read

    def allow_relation(self, one, other, **hints):
        return True
"""

SITE = """
import asyncio, json, sys

import jwt
from asgiref.sync import sync_to_async
from django.conf import settings

KEY = "a key of more than thirty-two bytes, as PyJWT wants it"
apps = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["*"], USE_TZ=True, ROOT_URLCONF=__name__,
    ROOT_WS_URLCONF=__name__, INSTALLED_APPS=[*apps, "django_ws", "people"],
    AUTH_USER_MODEL="people.Person", DATABASE_ROUTERS=["people.models.Router"],
    MIGRATION_MODULES={name.rpartition(".")[2]: None for name in apps},
    DATABASES={
        name: {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{sys.argv[1]}/{name}.sqlite3",
            "ATOMIC_REQUESTS": True,
            "OPTIONS": {"timeout": 20},
        }
        for name in ("default", "users")
    },
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    WS_JWT={"key": KEY, "algorithms": ["HS256"]},
    LOGGING_CONFIG=None,
)
import django

django.setup()
from django.contrib.auth import logout
from django.core.management import call_command
from django.db import connections, transaction
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from people.models import Member, Person

from django_ws import WebSocketHandler, get_websocket_application
from django_ws.auth import make_ticket
from django_ws.testing import WebSocketClient

application = get_websocket_application()


def log_out(request):
    logout(request)
    return HttpResponse()


class Who(WebSocketHandler):
    async def on_open(self):
        await self.send(self.request.user.get_username())


urlpatterns = [path("ws/", Who), path("log-out/", log_out)]


def browser():
    client = Client()
    client.force_login(Person._base_manager.get())
    return client


def client_of(url="/ws/", **options):
    return WebSocketClient(url, application=application, timeout=20, **options)


async def ends_by(action):
    person = await sync_to_async(browser)()
    cookies = {"sessionid": person.cookies["sessionid"].value}
    async with client_of(cookies=cookies) as ws:
        name = await ws.receive()
        await sync_to_async(action)(person)
        return [name, await ws.wait_closed()]


def new_password(browser):
    with transaction.atomic(using="users"):
        person = Person.objects.get()
        person.set_password("new")
        person.save()


def inactive_by_a_proxy(browser):
    Member.objects.all()[0].save()  # of what has not changed
    member = Member.objects.get()
    member.is_active = False
    member.save()


def hidden_by_the_manager(browser):
    person = Person._base_manager.get()
    person.is_active = person.hidden = True
    person.save()


async def by(middleware, url="/ws/", **options):
    with override_settings(WS_MIDDLEWARE=[f"django_ws.middleware.{middleware}"]):
        async with client_of(url, **options) as ws:
            return await ws.receive()


async def main():
    said = {
        "log-out": await ends_by(lambda browser: browser.logout()),
        "log-out by a view": await ends_by(lambda browser: browser.post("/log-out/")),
        "password": await ends_by(new_password),
        "inactive": await ends_by(inactive_by_a_proxy),
    }
    await sync_to_async(Person.objects.update)(is_active=True)
    request = RequestFactory().get("/")
    request.user = person = await Person.objects.aget()
    said["ticket"] = await by("TicketAuthMiddleware", f"/ws/?ticket={make_ticket(request)}")
    token = jwt.encode({"sub": str(person.pk)}, KEY, "HS256")
    said["jwt"] = await by("JWTAuthMiddleware", headers={"Authorization": f"Bearer {token}"})
    said["hidden"] = await ends_by(hidden_by_the_manager)
    await sync_to_async(connections.close_all)()
    print(json.dumps(said))


for name in ("default", "users"):
    call_command("migrate", run_syncdb=True, verbosity=0, database=name)
Person.objects.create_user("ada@example.com", "secret")
asyncio.run(main())
"""


def test_every_log_in_and_its_end(tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "__init__.py").touch()
    (tmp_path / "people" / "models.py").write_text(MODELS)
    (tmp_path / "site_of_people.py").write_text(SITE)
    done = subprocess.run(
        [sys.executable, "-c", "import site_of_people", str(tmp_path)],
        cwd=ROOT,  # where coverage keeps its data
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ended = ["ada@example.com", 4401]
    assert json.loads(done.stdout) == {
        "log-out": ended,
        "log-out by a view": ended,
        "password": ended,
        "inactive": ended,
        "ticket": "ada@example.com",
        "jwt": "ada@example.com",
        "hidden": ended,
    }
