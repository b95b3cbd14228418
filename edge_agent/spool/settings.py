"""The spool's section of the agent's file."""

from pydantic import Field, model_validator

from edge_agent.settings import ConfigPath, Settings


class Quota(Settings):
    """What one kind of frames may take on disk; its oldest make room for its newest."""

    max_files: int = Field(default=1000, ge=1)
    max_bytes: int = Field(default=2 * 1024**3, ge=1)


class UncertainBand(Settings):
    """Scores that say little, as factors of the threshold in force. Equal ends: nothing is uncertain."""

    low: float = Field(default=0.95, gt=0.0, allow_inf_nan=False)
    high: float = Field(default=1.05, gt=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_in_order(self) -> "UncertainBand":
        if self.high < self.low:
            raise ValueError("the upper end, high, is below the lower one, low")
        return self


class SpoolConfig(Settings):
    """Which frames are kept for retraining, where, and how many."""

    folder: ConfigPath | None = None  # None: no frame is kept
    pass_share: float = Field(default=0.01, ge=0.0, le=1.0)  # of the passes, drawn by result id
    band: UncertainBand = UncertainBand()
    good: Quota = Quota()  # sampled passes
    bad: Quota = Quota()  # rejects
    uncertain: Quota = Quota()  # scores in the band, whatever the verdict
    per_minute: int = Field(default=60, ge=1)  # frames of one kind; a flood of rejects must not wear out the disk
    memory_bytes: int = Field(default=256 * 1024**2, ge=1)  # frames held between the camera and the disk
    min_free_bytes: int = Field(default=1024**3, ge=0)  # less room than this is left to the outbox alone
