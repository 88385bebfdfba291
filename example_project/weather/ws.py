"""The handler of the weather demo."""

from typing import Any

from django_ws import WebSocketHandler
from django_ws.exceptions import InvalidMessage
from weather.forecast import CITIES, Forecast

PERIOD = 2  # seconds between two changes


class WeatherHandler(WebSocketHandler):
    """Pushes the forecast for the city that the page has chosen.

    The page sends ``{"city": "Oslo"}`` to begin or to change the city, and ``{"pause": true}``.
    """

    async def on_open(self) -> None:
        # The page takes a connection on which it hears nothing for a minute for dead.
        self.start_ping(interval=20)

    async def on_message(self, message: Any) -> None:
        match message:
            case {"city": str(city)} if city in CITIES:
                # A task of that name that still runs, for another city, is cancelled.
                self.start_task("forecast", self.push, args=(city,))
            case {"pause": True}:
                await self.cancel_task("forecast")
            case _:
                raise InvalidMessage("send a city of the list, or a pause")

    async def on_invalid_message(self, error: InvalidMessage) -> None:
        await self.send({"error": error.reason})  # and the connection goes on

    async def push(self, city: str) -> None:
        """Send the forecast now and after each period, until it is cancelled."""
        forecast = Forecast(city)
        await self.send_forecast(forecast)
        await self.sleep_loop(self.send_changed, PERIOD, forecast)

    async def send_changed(self, forecast: Forecast) -> None:
        forecast.change()
        await self.send_forecast(forecast)

    async def send_forecast(self, forecast: Forecast) -> None:
        now, *hours = forecast.hours
        await self.send({"city": forecast.city, "now": now, "hours": hours})
