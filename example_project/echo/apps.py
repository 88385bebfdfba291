"""The Django app of the echo demo."""

from pages.demos import DemoConfig


class EchoConfig(DemoConfig):
    name = "echo"
    title = "Echo"
    summary = "What you type comes back, with the time that its way took. It knows who you are."
    shows = ("on_open", "on_message", "send", "request.auser")
