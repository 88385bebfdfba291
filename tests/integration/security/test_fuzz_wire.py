"""Random bytes, heads and frames on the TCP socket of a real uvicorn."""

from __future__ import annotations

import os
import random

import pytest
from django.db import connection

from tests.support import fuzzer

SECONDS = float(os.environ.get("FUZZ_SECONDS", "2"))
LONG_SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))


def survives(seconds: float, seed: int) -> None:
    findings = fuzzer.run(seconds, seed, str(connection.settings_dict["NAME"]))
    assert findings.trouble == [], findings
    assert findings.tries.total() >= 5, findings
    left = {name: findings.after[name] - findings.before[name] for name in findings.after}
    assert left["running"] == 0, findings
    assert left["files"] <= 2, findings  # a pooled database connection, perhaps
    assert left["memory"] < 32, findings
    assert left["objects"] < 20_000, findings


@pytest.mark.django_db(transaction=True)
def test_server_survives_a_short_fuzz() -> None:
    survives(SECONDS, seed=1)  # always the same: what it finds is no accident


@pytest.mark.faults
@pytest.mark.timeout(LONG_SECONDS * 2 + 120)
@pytest.mark.django_db(transaction=True)
def test_server_survives_a_long_fuzz() -> None:
    survives(LONG_SECONDS, random.SystemRandom().randrange(2**32))
