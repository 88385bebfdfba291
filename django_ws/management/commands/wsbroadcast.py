"""manage.py wsbroadcast TOPIC JSON: a broadcast from the command line."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_ws.exceptions import WebSocketError
from django_ws.pubsub.backends.memory import MemoryBackend
from django_ws.pubsub.hub.registry import backend_class, config_of
from django_ws.pubsub.publish import broadcast


class Command(BaseCommand):
    help = "Send a message to all subscribers of a topic, in every process."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("topic")
        parser.add_argument("message", help="JSON; - reads it from the standard input")
        parser.add_argument("--using", default="default", help="an alias of WS_BROADCAST")

    def handle(self, *, topic: str, message: str, using: str, **options: Any) -> None:
        text = sys.stdin.read() if message == "-" else message
        try:
            decoded = json.loads(text)
        except ValueError as error:
            raise CommandError(
                f'the message is no JSON ({error}). Quote it for the shell: \'{{"text": "hi"}}\', '
                "or '\"hi\"' for a text."
            ) from error
        try:
            if issubclass(backend_class(using, config_of(using)), MemoryBackend):
                raise CommandError(
                    f"WS_BROADCAST[{using!r}] is the memory of one process: nobody listens in "
                    "this one. Set WS_BROADCAST to a server that all processes share."
                )
            broadcast(topic, decoded, using=using)
        except (WebSocketError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        if options["verbosity"] > 0:
            self.stdout.write(f"Broadcast to {topic!r}.")
