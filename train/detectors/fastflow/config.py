"""Settings of a FastFlow run. The defaults are the paper's recipe on ResNet18 (sheet: "Training recipe")."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from train.backbones.registry import BACKBONES, find_backbone
from train.config import RunConfig
from train.detectors.fastflow.normalisation import Normalisation
from train.tiling import Tiling


class FastFlowConfig(RunConfig, frozen=True):
    added_later: ClassVar[frozenset[str]] = frozenset({"tile", "tile_overlap", "compute"})

    backbone: str = "resnet18"
    backbone_weights: Path | None = Field(None, exclude=True)  # a file; without it the cache, then the hub

    coupling: Literal["alternate", "double"] = "alternate"  # one-sided with a permutation, or both halves in one step
    flow_steps: int = Field(8, ge=1)  # coupling steps per feature scale; `double`: half as many, of two subnets each
    kernels: Literal["3x3", "3x3_1x1"] = "3x3"  # of the subnets: all 3x3, or 3x3 and 1x1 in turn
    hidden_ratio: float = Field(1.0, gt=0, le=8)  # width of the subnets over half the channels
    clamp: float = Field(2.0, gt=0)  # bound on |log s|
    normalisation: Normalisation = "layer_norm"  # of the features, before the flow
    feature_noise: float = Field(0.0, ge=0)  # standard deviation of what training adds to normalised features
    form: Literal["auto", "plain", "fast"] = "auto"  # exact rewrites of the convolutions; auto: fast on a CPU
    # Of the subnets' convolutions in training; log-determinants, exp, the loss and all of scoring stay float32
    compute: Literal["float32", "bfloat16"] = "float32"
    micro_batch: int = Field(0, ge=0)  # images whose gradient is computed at once; 0: 8 on a CPU, all elsewhere

    batch_size: int = Field(32, ge=1)
    epochs: int = Field(500, ge=1)
    steps_per_epoch: int = Field(0, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "plateau", "cosine"] = "constant"
    weight_decay: float = Field(1e-5, ge=0)
    weight_decay_form: Literal["gradient", "decoupled"] = "gradient"  # L2 in the gradient as torch's Adam, or AdamW's
    average_decay: float = Field(0.0, ge=0, lt=1)  # of a moving average of the parameters, which then scores; 0: none
    checkpoint: Literal["last", "best"] = "last"  # best: by the likelihood of held-out good images
    validation_samples: int = Field(64, ge=1)

    # An image as large as the camera's: white is judged, black counts neither in training nor in any score
    mask: Path | None = Field(None, exclude=True)
    # Side of the square tiles that the network sees instead of the whole image, in pixels of image_size; 0: none
    tile: int = Field(0, ge=0)
    # Pixels that neighbouring tiles share at least, across which their maps are blended; None: a quarter of tile
    tile_overlap: int | None = Field(None, ge=0)

    log_det_weight: float = Field(0.0, ge=0, le=1)  # of the log-determinant in the anomaly map; the paper has none
    top_share: float = Field(0.0, ge=0, lt=1)  # image score: mean of this share of the highest pixels; 0: the highest

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Of the coupling steps, in order."""
        steps = self.flow_steps if self.coupling == "alternate" else max(self.flow_steps // 2, 1)
        return tuple(1 if self.kernels == "3x3_1x1" and step % 2 else 3 for step in range(steps))

    @property
    def input_size(self) -> int:
        """Side of what the network sees, pixels."""
        return self.tile or self.image_size

    @property
    def tiling(self) -> Tiling:
        overlap = self.tile // 4 if self.tile_overlap is None else self.tile_overlap
        return Tiling(self.image_size, self.input_size, overlap)

    @field_validator("tile")
    @classmethod
    def _tile_fits(cls, tile: int, info: Any) -> int:
        size, name = info.data.get("image_size", tile + 1), info.data.get("backbone")
        if tile >= size:
            raise ValueError(f"tile must be smaller than image_size, which is {size}; 0 takes the image as a whole")
        if tile and name in BACKBONES:
            backbone = BACKBONES[name]
            if backbone.only_published_size and tile != backbone.image_size:
                raise ValueError(f"tile must be {backbone.image_size}: {name} was published for that size alone")
            if near := nearest_multiple(tile, backbone.size_multiple):
                raise ValueError(f"{name} takes multiples of {backbone.size_multiple} pixels. The nearest is {near}")
        return tile

    @field_validator("tile_overlap")
    @classmethod
    def _overlap_fits(cls, overlap: int | None, info: Any) -> int | None:
        tile = info.data.get("tile")
        if overlap and tile == 0:
            raise ValueError("There are no tiles to overlap: set tile too, or leave tile_overlap out")
        if overlap and tile and overlap > tile // 2:
            raise ValueError(f"tile_overlap may be at most half of tile, which is {tile}")
        return overlap

    @model_validator(mode="after")
    def _consistent(self) -> "FastFlowConfig":
        try:
            backbone = find_backbone(self.backbone)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        if not self.tile and (near := nearest_multiple(self.image_size, backbone.size_multiple)):
            raise ValueError(
                f"image_size is {self.image_size}; {self.backbone} takes multiples of {backbone.size_multiple} pixels. "
                f"The nearest is {near}"
            )
        if self.color != "rgb":
            raise ValueError(f"color is {self.color}; backbones see colour, so leave it at rgb (grey images work too)")
        return self


def nearest_multiple(size: int, of: int) -> int | None:
    """The one to take in place of a size that is none; None where it is one."""
    return max(round(size / of), 1) * of if size % of else None
