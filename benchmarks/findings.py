"""From rounds to a verdict, and the lines that say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load import Load

# Rounds that differ by more than this share of their median prove nothing.
_STEADY = 0.25
# A server under full load that is on its core for less than this had to share it.
_ALONE = 0.9
# Two figures no further apart than this are called equal.
_EQUAL = 0.05


@dataclass(frozen=True)
class Finding:
    """One figure in all its rounds, against its target if it has one.

    ``doubt`` says why the rounds prove nothing; ``at_most`` turns the target round.
    """

    name: str
    rounds: Sequence[float]
    target: float | None = None
    unit: str = ""
    at_most: bool = False
    doubt: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "for comparison"
        if self.doubt:
            return f"NO VERDICT: {self.doubt}"
        value = median(self.rounds)
        missing = value - self.target if self.at_most else self.target - value
        if missing <= 0:
            return "met"
        if not self.target:
            return "MISSED"
        missing /= self.target
        return "equal within 5 %" if missing <= _EQUAL else "MISSED"

    def line(self) -> str:
        goal = "" if self.target is None else f"{'<=' if self.at_most else '>='} {self.target:g}"
        value = f"{median(self.rounds):.3f}"
        return f"{self.name:<58} {value:>9} {self.unit:<4} {goal:<8} {self.verdict}"

    def details(self) -> str:
        return f"  {self.name}: " + " ".join(f"{value:.3f}" for value in self.rounds)


def unsteady(sides: dict[str, Sequence[float]]) -> str:
    """Which sides' rounds lie too far apart, or an empty string."""
    spreads = {name: (max(r) - min(r)) / median(r) for name, r in sides.items() if median(r) > 0}
    return ", ".join(
        f"{name}'s rounds spread by {spread:.0%}"
        for name, spread in spreads.items()
        if spread > _STEADY
    )


def paired(
    title: str, loads: dict[str, list[Load]], pair: tuple[str, str], target: float | None
) -> Finding:
    """The ratio of two sides' rates, round by round."""
    above, below = ([load.rate for load in loads[name]] for name in pair)
    shared = [name for name in pair if median(load.share for load in loads[name]) < _ALONE]
    doubts = [f"{name} had to share its core" for name in shared]
    doubts += filter(None, [unsteady({pair[0]: above, pair[1]: below})])
    return Finding(
        f"{title}: {pair[0]} / {pair[1]}",
        [a / b for a, b in zip(above, below, strict=True)],
        target,
        doubt=", ".join(doubts),
    )


def print_loads(title: str, loads: dict[str, list[Load]]) -> None:
    """Each side's medians, and how far the generator was from being the limit.

    The costs are compared with those of the side that comes first.
    """
    first = next(iter(loads))
    print(f"\n{title} (medians of {len(loads[first])} rounds)")
    for name, rounds in loads.items():
        rates = [load.rate for load in rounds]
        spread = (max(rates) - min(rates)) / median(rates)
        cost = median(load.cost for load in rounds) * 1e6
        used = median(load.share for load in rounds)
        busy = median(load.busy for load in rounds)
        costs = [base.cost / own.cost for base, own in zip(loads[first], rounds, strict=True)]
        print(
            f"  {name:<14} {median(rates):>9,.0f} /s  spread {spread:>4.0%}  "
            f"server {cost:>7.1f} us each, {used:>4.0%} of its core "
            f"({first}'s cost is {median(costs):.2f} of that)  "
            f"generator {busy:>4.0%} busy"
        )
