"""Settings of an f-AnoGAN run. The defaults are the authors' code (sheet: "Training recipe")."""

from typing import Literal

from pydantic import Field, model_validator

from train.detectors.anogan.config import TiledConfig


class FAnoGANConfig(TiledConfig, frozen=True):
    filters: int = Field(64, ge=1)  # of the widest maps; the smallest have eight times as many
    latent: int = Field(128, ge=1)  # numbers in z
    flip: bool = True  # mirror every other training image from left to right

    batch_size: int = Field(64, ge=2)
    epochs: int = Field(30, ge=2)  # both phases together
    encoder_epochs: int = Field(10, ge=1)  # the last of them train the encoder, generator and critic standing still
    steps_per_epoch: int = Field(0, ge=0)
    learning_rate: float = Field(1e-4, gt=0)  # Adam of generator and critic
    encoder_rate: float = Field(5e-5, gt=0)  # RMSProp
    critic_steps: int = Field(5, ge=1)  # critic updates, each on a batch of its own, per update of the generator
    penalty: float = Field(10.0, ge=0)  # lambda of WGAN-GP
    schedule: Literal["constant", "plateau", "cosine"] = "constant"
    validation_samples: int = Field(128, ge=1)
    checkpoint: Literal["last", "best"] = "last"  # best: by PSNR of held-out good images

    w_feature: float = Field(1.0, ge=0)  # kappa, of the critic's features; in training and in the score

    @model_validator(mode="after")
    def _phases_fit(self) -> "FAnoGANConfig":
        if self.encoder_epochs >= self.epochs:
            raise ValueError(
                f"encoder_epochs is {self.encoder_epochs} of {self.epochs} epochs, so none is left to train the "
                "generator. Raise epochs, or lower encoder_epochs"
            )
        return self
