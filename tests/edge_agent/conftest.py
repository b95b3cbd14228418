"""Fixtures of the agent's tests."""

from broker_fixtures import broker, subscriber

__all__ = ["broker", "subscriber"]
