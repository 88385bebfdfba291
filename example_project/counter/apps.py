"""The Django app of the counter demo."""

from pages.demos import DemoConfig


class CounterConfig(DemoConfig):
    name = "counter"
    title = "Counter"
    summary = "One value in all of your tabs. It is kept on the server, so a late tab is in step."
    shows = (
        "get_topics",
        "broadcast_on_commit",
        "on_broadcast_gap",
        "def hooks",
        "TokenAuthMiddleware",
    )
