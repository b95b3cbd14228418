"""Settings of a classifier's run. The defaults are the paper's protocol (sheet: "Downstream protocol")."""

from typing import Literal

from pydantic import Field

from train.config import TrainingConfig


class ClassifierConfig(TrainingConfig, frozen=True):
    network: Literal["resnet10", "resnet18", "resnet34"] = "resnet34"
    width: int = Field(64, ge=4)  # channels of the first stage; doubled at each of the three others
    # 7 x 7 of stride 2 and a pool, or for images of less than some 128 pixels one 3 x 3 of stride 2
    stem: Literal["imagenet", "small"] = "imagenet"
    categories: tuple[str, ...] = ()  # () in a file: those of the data
    exclusive: bool = True  # one category at most: cross-entropy over them and "normal"; else a yes or no for each

    image_size: int = Field(224, ge=32, le=2048)
    batch_size: int = Field(16, ge=2)
    epochs: int = Field(50, ge=1)
    steps_per_epoch: int = Field(0, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # the sheet has none; common practice
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["constant", "plateau", "cosine"] = "constant"

    synthetic_share: float = Field(0.5, gt=0, lt=1)  # of a batch, where there are synthetic images
    # Of the loss that tells real from synthetic images, whose gradient is reversed before the features; 0: none
    source_weight: float = Field(0.0, ge=0)

    @property
    def outputs(self) -> int:
        """Logits: one per category, and where they exclude each other a last one for a normal part."""
        return len(self.categories) + self.exclusive
