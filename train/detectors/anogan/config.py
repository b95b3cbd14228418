"""Settings of an AnoGAN run. The defaults are the sheet's: 64 px, 500 steps, L1 means, lambda 0.1."""

from typing import Literal

from pydantic import Field, model_validator

from train.config import RunConfig
from train.detectors.anogan.layout import LAYOUTS, Layout
from train.tiling import Tiling


class TiledConfig(RunConfig, frozen=True):
    """What every detector needs whose network sees squares of one size: of an image that is larger, tiles."""

    image_size: int = Field(64, ge=28, le=2048)  # larger than the network's own size: the image is cut into tiles
    tile_overlap: int = Field(0, ge=0)  # pixels that neighbouring tiles share at least, across which maps are blended
    # The image's score among those of its tiles: 1 the highest, 0.99 the 99th percentile
    tile_quantile: float = Field(1.0, gt=0, le=1)

    @property
    def input_size(self) -> int:
        """Side of what the network sees, pixels."""
        return 64

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.image_size, self.input_size, self.tile_overlap)

    @model_validator(mode="after")
    def _tiles_fit(self) -> "TiledConfig":
        if self.image_size < self.input_size:
            raise ValueError(
                f"image_size is {self.image_size}, but this network draws squares of {self.input_size} px. "
                f"Set image_size={self.input_size}, or more to have the image cut into tiles"
            )
        if self.tile_overlap > self.input_size // 2:
            raise ValueError(
                f"tile_overlap is {self.tile_overlap}; it may be at most half of a tile, which has {self.input_size} px"
            )
        return self


class AnoGANConfig(TiledConfig, frozen=True):
    network: Literal["dcgan", "seed"] = "dcgan"  # 64 px as the paper, or the 28 px of the seed's code
    filters: int = Field(64, ge=1)  # of the discriminator's first layer; the generator starts with eight times as many
    latent: int = Field(128, ge=1)  # numbers in z
    # Of the two layers without batch normalisation. Without them (the seed's code) the discriminator cannot see by how
    # much all drawn images are too faint or too strong.
    biases: bool = False
    # Exact rewrites of the convolutions; auto: on a CPU matmul, and tiles where many are searched for at once
    form: Literal["auto", "plain", "matmul", "tiles"] = "auto"

    batch_size: int = Field(64, ge=2)
    epochs: int = Field(50, ge=1)
    steps_per_epoch: int = Field(0, ge=0)
    learning_rate: float = Field(2e-4, gt=0)
    adam_b1: float = Field(0.5, ge=0, lt=1)
    schedule: Literal["constant", "plateau", "cosine"] = "constant"
    validation_samples: int = Field(128, ge=1)
    checkpoint: Literal["last", "best"] = "last"  # best: by `closeness` of drawn images to held-out good ones

    inversion_steps: int = Field(500, ge=1)
    inversion_rate: float = Field(0.02, gt=0)  # of Adam on z, at the first step
    inversion_final_rate: float = Field(0.002, gt=0)  # at the last; a cosine between
    distance: Literal["l1", "mse"] = "l1"  # both are means, so that the weights keep their role
    w_residual: float = Field(0.9, ge=0)  # 1 - lambda
    w_feature: float = Field(0.1, ge=0)  # lambda, of the discriminator's features
    restarts: int = Field(1, ge=1)  # starts of z, of which the best is kept
    patience: int = Field(0, ge=0)  # steps without progress after which a sample stands still; 0: all steps

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.network]

    @property
    def input_size(self) -> int:
        return LAYOUTS[self.network].size

    @model_validator(mode="after")
    def _consistent(self) -> "AnoGANConfig":
        if self.w_residual + self.w_feature == 0:
            raise ValueError(
                "w_residual and w_feature are both 0, so nothing would be searched for. The paper has 0.9 and 0.1"
            )
        if self.inversion_final_rate > self.inversion_rate:
            raise ValueError(
                f"inversion_final_rate is {self.inversion_final_rate:g}, above inversion_rate, which is "
                f"{self.inversion_rate:g}; the rate falls"
            )
        return self
