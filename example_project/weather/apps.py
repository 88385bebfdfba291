"""The Django app of the weather demo."""

from pages.demos import DemoConfig


class WeatherConfig(DemoConfig):
    name = "weather"
    title = "Weather"
    summary = "A forecast that changes every two seconds. The page never asks: the server pushes."
    shows = ("start_task", "sleep_loop", "start_ping", "cancel_task")
