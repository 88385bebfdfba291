"""What a text means: a message to the room, or a private one by ``/pm NAME TEXT``."""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from chat.models import TEXT_LENGTH

PRIVATE = "/pm"


class Refused(Exception):
    """What a visitor asked for is not done; the text tells the visitor why."""


@dataclass(frozen=True)
class Public:
    text: str


@dataclass(frozen=True)
class Private:
    name: str
    text: str


def parse(text: str) -> Public | Private:
    """Raises ``Refused``. A mistyped command is refused too: it may hold something private."""
    text = text.strip()
    if not text:
        raise Refused("There is nothing in this message.")
    if len(text) > TEXT_LENGTH:
        raise Refused(f"A message has at most {TEXT_LENGTH} characters, this one {len(text)}.")
    if "\0" in text:
        raise Refused("A message cannot have a NUL character.")
    if not text.startswith("/"):
        return Public(text)
    command, *words = text.split(maxsplit=2)
    if command != PRIVATE:
        raise Refused(f"There is no command {command}. For a private message: /pm bob hello")
    if len(words) < 2:
        raise Refused("A private message needs a name and a text: /pm bob hello")
    return Private(*words)


def user_called(name: str) -> User:
    """Raises ``Refused``."""
    user = User.objects.filter(username=name, is_active=True).first()
    if user is None:
        raise Refused(f"There is no user “{name}”. The message was not sent.")
    return user


def private_message(author: User, receiver: User, text: str) -> dict[str, Any]:
    return {
        "private": {
            "author": author.get_username(),
            "to": receiver.get_username(),
            "text": text,
            "at": timezone.now(),
        }
    }
