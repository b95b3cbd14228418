"""Settings of a segmenter's run."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from train.config import TrainingConfig

STRIDE = 16  # of the coarsest level, pixels


class SegmenterConfig(TrainingConfig, frozen=True):
    # What sees strides 4, 8 and 16: a frozen backbone (mini has random weights), or levels trained with the others
    encoder: Literal["resnet18", "mini", "trained"] = "resnet18"
    backbone_weights: Path | None = Field(None, exclude=True)  # a file; without it the cache, then the hub
    width: int = Field(16, ge=4, multiple_of=4)  # channels of the finest level; doubled at each coarser one, to 8 times

    image_size: int = Field(256, ge=32, le=2048, multiple_of=STRIDE)
    batch_size: int = Field(32, ge=2)
    epochs: int = Field(40, ge=1)
    steps_per_epoch: int = Field(125, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(50, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"  # type: ignore[assignment]
    validation_fraction: float = Field(0.1, gt=0, lt=1)  # of the normal training images, never trained on
    validation_samples: int = Field(32, ge=1)

    defect_share: float = Field(0.5, gt=0, lt=1)  # of a batch; the rest is normal
    synthetic_share: float = Field(0.5, gt=0, lt=1)  # of a batch's defects, where there are synthetic ones
    quarter_turns: bool = True  # images and masks, beside flips
    focal_gamma: float = Field(4.0, ge=0)
    l1_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _has_both_kinds(self) -> "SegmenterConfig":
        if not 0 < self.defective_per_batch < self.batch_size:
            raise ValueError(
                f"defect_share is {self.defect_share:g}, so that a batch of {self.batch_size} holds "
                f"{self.defective_per_batch} images with a defect. It must hold such images and normal ones"
            )
        return self

    @property
    def defective_per_batch(self) -> int:
        return round(self.batch_size * self.defect_share)

    def synthetic_per_batch(self, n_synthetic: int) -> int:
        """Of those with a defect."""
        return round(self.defective_per_batch * self.synthetic_share) if n_synthetic else 0
