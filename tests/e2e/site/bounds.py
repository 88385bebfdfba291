"""Handlers that bound what their clients may do."""

from __future__ import annotations

from typing import Any

from django_ws.exceptions import TooManyTopics
from tests.e2e.site.handlers import Echo, Noting


class FiveAnHour(Echo):
    rate_limit = "5/h"


class SoonIdle(Echo):
    idle_timeout = 2


class JoinsMany(Noting):
    """Joins as many topics as the client asks for, and says how far it came."""

    async def on_message(self, message: Any) -> None:
        try:
            for number in range(message):
                await self.subscribe(f"{self.kwargs['key']}:{number}")
        except TooManyTopics as error:
            await self.send({"joined": len(self.subscriptions), "limit": error.limit})
        else:
            await self.send({"joined": len(self.subscriptions)})


class ShowsClient(Noting):
    async def on_open(self) -> None:
        request = self.request
        await self.send({"address": request.client_address, "secure": request.is_secure()})
