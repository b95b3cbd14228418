"""`models` of the agent's file: where new bundles come from, and what a change of model has to pass."""

from pathlib import Path

from pydantic import Field

from edge_agent.settings import ConfigPath, Settings


class ModelsConfig(Settings):
    """What the commands reload_model and rollback may do."""

    folder: ConfigPath | None = None  # holds the bundles that a command may name; without one it can name none
    record: ConfigPath = Path("models.json")  # which bundle serves, over restarts and power cuts
    allow_older: bool = False  # take the file's bundle although a newer one of its product has served here
    shadow_parts: int = Field(default=0, ge=0, le=100_000)  # at least so many are scored by both before a switch
    shadow_timeout_s: float = Field(default=3600.0, gt=0.0)  # the parts have to come within this time
    max_flip_rate: float = Field(default=0.02, ge=0.0, le=1.0)  # verdicts that may differ while both score
    probation_parts: int = Field(default=200, ge=0)  # after a switch so many parts are watched ...
    probation_s: float = Field(default=600.0, ge=0.0)  # ... for no longer than this
    max_failed_parts: int = Field(default=3, ge=0)  # of those; one more that the model can't judge, and it is undone
