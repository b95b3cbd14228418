"""What every generator's run needs."""

from pydantic import Field

from train.config import TrainingConfig


class GeneratorConfig(TrainingConfig, frozen=True):
    """Settings of a run that learns to draw defects."""

    image_size: int = Field(128, ge=16, le=2048)  # side of the square that the model draws, pixels
    categories: tuple[str, ...] = ()  # that are learned; (): all of the data
    exclusive: bool | None = None  # whether an image shows one category only; None: as the data says

    @property
    def control_channels(self) -> int:
        """One for each category, and a last one that asks for a normal part."""
        return len(self.categories) + 1
