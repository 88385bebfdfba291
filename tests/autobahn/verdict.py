"""What the suite says of a server, and how to let it speak in a process of its own.

Autobahn decides in each process once whether it runs on asyncio or on twisted. Its client here
takes asyncio; tests beside it import daphne, which takes twisted.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}


@dataclass(frozen=True)
class Verdict:
    """On one case. ``behavior`` and ``close`` are the suite's words."""

    number: str
    behavior: str
    close: str
    report: str

    @property
    def is_skipped(self) -> bool:
        """Whether the server does not offer compression, which the case is about."""
        return self.behavior == "UNIMPLEMENTED"

    @property
    def has_failed(self) -> bool:
        return not self.is_skipped and not {self.behavior, self.close} <= GOOD


def judge(url: str, patterns: Sequence[str]) -> list[Verdict]:
    """On the cases whose numbers match one of the patterns."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_judge, url, patterns).result()


def _judge(url: str, patterns: Sequence[str]) -> list[Verdict]:
    from tests.autobahn.cases import cases
    from tests.autobahn.client import run

    return run(url, cases(patterns).values())
