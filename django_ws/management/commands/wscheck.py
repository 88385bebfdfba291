"""`manage.py wscheck URL`: can a client open a socket there? If not, why?"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

MAX_SECONDS = 24 * 60 * 60  # the system's bound for a socket's time-out is 24 days
STEP = "{:<10}{:>9.1f} ms   {}"


class Command(BaseCommand):
    """Exit code 0 where a socket opens and answers a ping, 1 where not."""

    help = (
        "Opens a WebSocket, waits for the answer to a ping and tells how long each step took. "
        "Fails with the cause, and a cure, in one line."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("url", help="for example wss://example.com/ws/chat/")
        parser.add_argument("--origin", help="as of a browser's page: https://example.com")
        parser.add_argument(
            "--header",
            action="append",
            default=[],
            metavar="'NAME: VALUE'",
            help="to be sent with the handshake, also in the place of Host; may be repeated",
        )
        parser.add_argument(
            "--subprotocol", action="append", default=[], help="to be offered; may be repeated"
        )
        parser.add_argument(
            "--timeout", type=float, default=10.0, help="seconds for each step, 10 by default"
        )
        parser.add_argument(
            "--insecure", action="store_true", help="take any certificate of the server"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not find_spec("websockets"):
            raise CommandError('websockets is not installed. Run: pip install "django-ws[server]"')
        from django_ws.server.wscheck.answers import Refused
        from django_ws.server.wscheck.probe import Probe

        headers = [_header(text) for text in options["header"]]
        if not 0 < options["timeout"] <= MAX_SECONDS:  # nor is "nan"
            raise CommandError(
                f"--timeout {options['timeout']:g}: give seconds, more than 0 and at most a day."
            )
        try:
            probe = Probe(
                options["url"],
                origin=options["origin"],
                headers=headers,
                subprotocols=options["subprotocol"],
                timeout=options["timeout"],
                insecure=options["insecure"],
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        total = 0.0
        try:
            for step in probe.run():
                total += step.seconds
                self._tell(options, STEP.format(step.name, step.seconds * 1000, step.detail))
        except Refused as refused:
            raise CommandError(f"{probe.place}: {refused}") from refused
        self._tell(options, self.style.SUCCESS(STEP.format("OK", total * 1000, probe.place)))

    def _tell(self, options: dict[str, Any], line: str) -> None:
        if options["verbosity"]:
            self.stdout.write(line.rstrip())


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not text.isprintable():
        raise CommandError(f"--header {name!r}: write it as 'Name: value'.")
    return name.strip(), value.strip()
