"""The tests: ``unit`` (in memory), ``integration`` (sockets, processes, Redis) and ``e2e``.

``unit`` and ``integration`` mirror ``django_ws``. What several tests need is in ``support``.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
