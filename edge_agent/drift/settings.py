"""The drift alarm's section of the agent's file."""

from pathlib import Path

from pydantic import Field

from edge_agent.settings import ConfigPath, Settings


class DriftConfig(Settings):
    """What is called drift, and what it is measured against."""

    enabled: bool = True
    change: float = Field(default=0.02, gt=0.0, le=0.5)  # lasting, of the brightness, that someone should hear of
    reference_parts: int = Field(
        default=1000, ge=50, le=100_000
    )  # the first passes of a model: how the line should look
    false_alarm_parts: int = Field(default=1_000_000, ge=1000)  # mean parts between two false alarms of one camera
    file: ConfigPath = Path("drift.json")  # references, kept over restarts: a lamp ages slower than an agent lives
