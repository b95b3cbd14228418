"""The fault tests share the broker, the subscriber and the small line with the agent's own tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "edge_agent"))

from broker_fixtures import broker, subscriber

__all__ = ["broker", "subscriber"]
