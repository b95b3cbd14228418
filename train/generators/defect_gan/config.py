"""Settings of a Defect-GAN run. The defaults are the sheet's: 128 px, StarGAN's widths, WGAN-GP, batches of 4."""

from typing import Literal

import jax
from pydantic import Field, model_validator

from train.blocks.strided import Form
from train.generators.config import GeneratorConfig

STRIDE = 4  # of the generator's trunk


class DefectGANConfig(GeneratorConfig, frozen=True):
    filters: int = Field(64, ge=1)  # of the generator's first layer; the trunk has four times as many
    residual_blocks: int = Field(6, ge=0)  # of the trunk; the later half is told the category
    spade_hidden: int = Field(128, ge=1)  # channels between control map and scale and shift
    critic_filters: int = Field(64, ge=1)  # of the critic's first layer; doubled by every further one
    critic_layers: int = Field(6, ge=1)
    composition: bool = True  # False: the foreground is the image (ablation)
    noise: bool = True  # False: no noise in any block (ablation)
    spade: bool = True  # False: the control map is more channels of the image, as in StarGAN (ablation)
    noise_start: float = Field(0.0, ge=0)  # of the learned strengths
    mask_start: float = Field(0.1, gt=0, lt=1)  # of an untrained mask, about
    form: Literal["auto", "plain", "matmul"] = "auto"  # exact rewrites of the convolutions; auto: matmul on a CPU

    adversarial: Literal["wgan_gp", "log"] = "wgan_gp"
    w_gradient: float = Field(10.0, ge=0)  # lambda_gp; of wgan_gp only
    w_class_real: float = Field(5.0, ge=0)  # lambda_cls^r
    w_class_drawn: float = Field(10.0, ge=0)  # lambda_cls^f
    w_reconstruction: float = Field(5.0, ge=0)  # lambda_rec
    w_mask_cycle: float = Field(5.0, ge=0)  # lambda_sd-cyc
    w_mask_size: float = Field(1.0, ge=0)  # lambda_sd-con
    mask_size_warmup: float = Field(0.1, ge=0, le=1)  # share of the training in which w_mask_size rises from 0

    flips: Literal["none", "horizontal", "both"] = "both"  # at random, of every training image
    # Defective images under the light of their normal partner: for sets whose classes differ in colour or brightness
    match_light: bool = False
    mask_probability: float = Field(0.5, ge=0, le=1)  # that a known mask, not the whole image, is the control map

    batch_size: int = Field(4, ge=1)
    critic_steps: int = Field(5, ge=1)  # updates of the critic for each of the generator
    epochs: int = Field(100, ge=1)
    steps_per_epoch: int = Field(1000, ge=0)  # updates of the generator; 0: one pass over the defective images
    schedule: Literal["linear", "constant"] = "linear"  # type: ignore[assignment]
    learning_rate: float = Field(2e-4, gt=0)
    final_learning_rate: float = Field(1e-6, ge=0)  # what it falls to, step by step
    adam_b1: float = Field(0.5, ge=0, lt=1)
    adam_b2: float = Field(0.999, ge=0, lt=1)
    average_decay: float = Field(0.999, ge=0, lt=1)  # of the generator's moving average, which paints; 0: none
    validation_fraction: float = Field(0.1, gt=0, lt=1)  # of the normal training images, never trained on
    validation_samples: int = Field(64, ge=1)
    checkpoint: Literal["last", "best"] = "last"  # best: by `closeness` of what is drawn to real defects

    @property
    def layout_form(self) -> Form:
        if self.form == "auto":
            return "matmul" if jax.default_backend() == "cpu" else "plain"
        return self.form

    @property
    def noise_numbers(self) -> int:
        """In the noise of one image: a map for every block."""
        maps = [self.image_size, self.image_size // 2] * 2 + [self.image_size // 4] * (1 + self.residual_blocks)
        return sum(side * side for side in maps) if self.noise else 0

    @model_validator(mode="after")
    def _consistent(self) -> "DefectGANConfig":
        if self.image_size % STRIDE:
            raise ValueError(
                f"image_size is {self.image_size}, but the generator halves images twice. Set a multiple of {STRIDE}, "
                f"such as {max(self.image_size // STRIDE, 4) * STRIDE}"
            )
        if self.image_size % 2**self.critic_layers:
            raise ValueError(
                f"critic_layers is {self.critic_layers}, but {self.image_size} px can't be halved so often. "
                "Set fewer critic_layers, or image_size to a multiple of "
                f"{2**self.critic_layers}"
            )
        return self
