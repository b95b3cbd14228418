"""The fault tests share the broker, the subscriber and the small line with the agent's own tests."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "edge_agent"), str(ROOT / "benchmarks")]

from broker_fixtures import broker, subscriber  # noqa: E402

__all__ = ["broker", "subscriber"]
