"""An invented forecast: it wanders, hour by hour and call by call."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

CITIES = {"Berlin": 11.0, "Cairo": 29.0, "Lima": 19.0, "Oslo": 4.0, "Singapore": 31.0}
HOURS = 6

# How much of the sky clouds cover, from 0 to 1, below which it is called so.
SKIES = ((0.25, "sunny"), (0.5, "fair"), (0.75, "cloudy"), (1.01, "rain"))


@dataclass(frozen=True)
class Hour:
    """One hour of the forecast. A handler can send it as it is: dataclasses are encoded."""

    at: datetime
    temperature: float  # °C
    wind: float  # km/h
    clouds: float  # 0 to 1
    sky: str

    def drift(self, at: datetime) -> Self:
        """The same hour a little later, or the hour after it."""
        clouds = min(1.0, max(0.0, self.clouds + random.uniform(-0.15, 0.15)))
        return type(self)(
            at=at,
            temperature=round(self.temperature + random.uniform(-0.6, 0.6), 1),
            wind=round(max(0.0, self.wind + random.uniform(-2, 2)), 1),
            clouds=round(clouds, 2),
            sky=sky(clouds),
        )


def sky(clouds: float) -> str:
    return next(name for limit, name in SKIES if clouds < limit)


class Forecast:
    """The forecast for one city: the present and the next hours."""

    def __init__(self, city: str) -> None:
        self.city = city
        now = datetime.now(UTC)
        clouds = random.random()
        self.hours = [Hour(now, CITIES[city], random.uniform(5, 30), clouds, sky(clouds))]
        self.change()

    def change(self) -> None:
        """Let a little time go by: the present drifts, and the hours follow from it."""
        now = datetime.now(UTC)
        self.hours = [self.hours[0].drift(now)]
        full = now.replace(minute=0, second=0, microsecond=0)
        for ahead in range(1, HOURS + 1):
            self.hours.append(self.hours[-1].drift(full + timedelta(hours=ahead)))
