"""What one stretch of load came to, and the polling under it."""

import select
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Load:
    """``busy`` is the generator's share of time outside polls that found nothing; ``waited``
    are seconds in which the server had nothing to do.
    """

    answers: int
    seconds: float
    busy: float
    server_seconds: float = 0.0
    waited: float = 0.0

    def __add__(self, other: "Load") -> "Load":
        seconds = self.seconds + other.seconds
        busy = (self.busy * self.seconds + other.busy * other.seconds) / seconds
        return Load(
            self.answers + other.answers,
            seconds,
            busy,
            self.server_seconds + other.server_seconds,
            self.waited + other.waited,
        )

    @property
    def rate(self) -> float:
        return self.answers / self.seconds

    @property
    def cost(self) -> float:
        """The server's processor seconds for one answer."""
        return self.server_seconds / self.answers

    @property
    def share(self) -> float:
        """How much of the time that it could use the server was on its core."""
        # Before the first answer of a broadcast both may have been at work.
        return min(1.0, self.server_seconds / (self.seconds - self.waited))


def poll(epoll: select.epoll, answered: Callable[[int], int], seconds: float) -> Load:
    """Calls ``answered`` with each socket that can be read, and adds up what that returns.

    It polls without ever sleeping: a client that sleeps must be woken by the server's writes,
    and they would seem slower than they are.
    """
    clock, look = perf_counter, epoll.poll
    answers, idle = 0, 0.0
    start = now = clock()
    deadline = start + seconds
    while now < deadline:
        events = look(0, 1024)
        if events:
            for fileno, _ in events:
                answers += answered(fileno)
            now = clock()
        else:
            before, now = now, clock()
            idle += now - before
    return Load(answers, now - start, 1 - idle / (now - start))
