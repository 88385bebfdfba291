"""The Django app of the chat demo."""

from pages.demos import DemoConfig


class ChatConfig(DemoConfig):
    name = "chat"
    title = "Chat"
    summary = "Rooms for everybody, and private messages to one. Open it as alice and as bob."
    shows = ("subscribe", "unsubscribe", "broadcast", "broadcast_on_commit", "user_topic")

    def ready(self) -> None:
        from chat import signals  # noqa: F401 - connects the receivers
