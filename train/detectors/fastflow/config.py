"""Settings of a FastFlow run. The defaults are the paper's recipe on ResNet18 (sheet: "Training recipe")."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from train.backbones.registry import find_backbone
from train.config import RunConfig
from train.detectors.fastflow.normalisation import Normalisation


class FastFlowConfig(RunConfig, frozen=True):
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

    log_det_weight: float = Field(0.0, ge=0, le=1)  # of the log-determinant in the anomaly map; the paper has none
    top_share: float = Field(0.0, ge=0, lt=1)  # image score: mean of this share of the highest pixels; 0: the highest

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Of the coupling steps, in order."""
        steps = self.flow_steps if self.coupling == "alternate" else max(self.flow_steps // 2, 1)
        return tuple(1 if self.kernels == "3x3_1x1" and step % 2 else 3 for step in range(steps))

    @model_validator(mode="after")
    def _consistent(self) -> "FastFlowConfig":
        try:
            backbone = find_backbone(self.backbone)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        multiple = backbone.size_multiple
        if self.image_size % multiple:
            near = max(round(self.image_size / multiple), 1) * multiple
            raise ValueError(
                f"image_size is {self.image_size}; {self.backbone} takes multiples of {multiple} pixels. "
                f"The nearest is {near}"
            )
        if self.color != "rgb":
            raise ValueError(f"color is {self.color}; backbones see colour, so leave it at rgb (grey images work too)")
        return self
