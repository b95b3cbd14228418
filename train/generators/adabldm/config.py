"""Settings of an AdaBLDM run. The defaults are the sheet's, on networks of size `small`."""

from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Literal

from pydantic import Field, field_validator, model_validator

from train.backbones.registry import BACKBONES, find_backbone
from train.generators.adabldm.adaptation import Adaptation
from train.generators.adabldm.foreground import SEEN_AT, Seen
from train.generators.adabldm.pairs import Turns
from train.generators.adabldm.sampler import Sampling
from train.generators.adabldm.sizes import SIZES, Size, TextSpec
from train.generators.adabldm.stages import find_stages
from train.generators.adabldm.text import ClipSpec, LabelSpec, WordSpec
from train.generators.config import GeneratorConfig

TOKENS_OF_LABEL = 4
WORDS, TOKENS_OF_WORDS = 512, 16
BLANKS = {"object", "defect"}  # of a prompt


class AdaBLDMConfig(GeneratorConfig, frozen=True):
    size: Literal["tiny", "small", "sd15"] = "small"
    text: Literal["labels", "words", "clip"] = "labels"  # what prompts are embedded by; clip: published, never trained
    # Files of the user, copied into the run: a checkpoint of Stable Diffusion or a folder (README: Weights)
    weights: Path | None = Field(None, exclude=True)  # of all networks that it holds; without it the denoiser is fresh
    autoencoder_weights: Path | None = Field(None, exclude=True)  # of the autoencoder, before those of `weights`
    merges: Path | None = Field(None, exclude=True)  # of CLIP's tokenizer; of `clip` only

    standardise_latents: bool = False  # shifted and scaled to mean 0 and deviation 1; TAEF2 has no scale of its own

    object: str = ""  # what the part is called in prompts; "": as the product is
    prompt: str = "{object}, a {object} with a {defect}"
    normal_prompt: str = "{object}, a {object}"
    negative_prompt: str = ""  # what guidance leads away from

    foreground: Literal["predict", "texture"] = "predict"  # texture: defects go anywhere
    backbone: str = "resnet18"  # whose features tell the part from its background; of `predict` only
    backbone_weights: Path | None = Field(None, exclude=True)  # a file; without it the cache, then the hub

    domain_epochs: int = Field(5, ge=0)  # of `epochs`: the denoiser is adapted; then the trimap encoder learns
    defect_share: float = Field(0.5, ge=0, le=1)  # of the images that the denoiser is adapted to
    empty_share: float = Field(0.1, ge=0, lt=1)  # of the prompts, that are emptied in training
    normal_share: float = Field(0.0, ge=0, lt=1)  # of the pairs, that show no defect
    rotation: tuple[float, float] = (0.0, 360.0)  # degrees, of a pasted defect
    scale: tuple[float, float] = (0.85, 1.15)

    compute: Literal["float32", "bfloat16"] = "float32"  # of the denoiser and the trimap encoder; weights stay float32
    rematerialise: bool = False  # maps inside blocks are computed again for the gradient instead of kept
    micro_batches: int = Field(1, ge=1)  # parts of a batch whose gradients are computed one after the other

    batch_size: int = Field(4, ge=1)
    epochs: int = Field(10, ge=1)
    steps_per_epoch: int = Field(3000, ge=0)  # 0: one pass over the defective images
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    adam_b1: float = Field(0.9, ge=0, lt=1)
    adam_b2: float = Field(0.999, ge=0, lt=1)
    warmup_steps: int = Field(0, ge=0)  # linear, from zero, in each of the two phases
    schedule: Literal["constant", "cosine"] = "constant"  # type: ignore[assignment]
    average_decay: float = Field(0.0, ge=0, lt=1)  # of a moving average of the weights, which then paints; 0: none
    validation_fraction: float = Field(0.1, gt=0, lt=1)  # of the normal training images, never trained on
    validation_samples: int = Field(32, ge=1)
    checkpoint: Literal["last", "best"] = "last"  # best: by the noise told in held-out images

    stages: str = "seed_countdown"  # of sampling: a preset's name, or three numbers of steps: 20/25/5
    guidance: float = Field(9.0, ge=0)
    renoise: Literal["current", "prev"] = "current"
    adaptation_steps: int = Field(200, ge=0)  # of the decoder, for every image
    adaptation_lr: float = Field(1e-4, gt=0)
    background_weight: float = Field(100.0, ge=0)  # lambda_con

    @property
    def networks(self) -> Size:
        """What the networks are built from."""
        size, text = SIZES[self.size], self._text
        unet = replace(size.unet, context=text.width, rematerialise=self.rematerialise)
        return replace(size, image=self.image_size, unet=unet, text=text)

    @property
    def _text(self) -> TextSpec:
        published = SIZES[self.size].text
        if self.text == "clip":
            return published if isinstance(published, ClipSpec) else ClipSpec()
        width = SIZES[self.size].unet.context
        return LabelSpec(TOKENS_OF_LABEL, width) if self.text == "labels" else WordSpec(WORDS, TOKENS_OF_WORDS, width)

    @property
    def turns(self) -> Turns:
        """How defects are changed for training pairs."""
        return Turns(self.rotation, self.scale, self.normal_share)

    @property
    def sampling(self) -> Sampling:
        return Sampling(find_stages(self.stages), self.guidance, self.renoise)

    @property
    def adaptation(self) -> Adaptation:
        return Adaptation(self.adaptation_steps, self.adaptation_lr, self.weight_decay, self.background_weight)

    @property
    def seen(self) -> Seen | None:
        """What the foreground is told by; None: it is the whole image."""
        return Seen(find_backbone(self.backbone), SEEN_AT) if self.foreground == "predict" else None

    @property
    def prompts(self) -> tuple[str, ...]:
        """That training knows: of a normal part, then of each category. A label is a prompt's place here, from 1."""
        return (self.prompt_of(None), *map(self.prompt_of, self.categories))

    def prompt_of(self, category: str | None) -> str:
        """None: of a normal part."""
        what, defect = self.object.replace("_", " "), (category or "").replace("_", " ")
        return (self.prompt if category else self.normal_prompt).format(object=what, defect=defect)

    @field_validator("prompt", "normal_prompt")
    @classmethod
    def _known_blanks(cls, prompt: str) -> str:
        try:
            blanks = {name for _, name, _, _ in Formatter().parse(prompt) if name is not None}
        except ValueError as error:
            raise ValueError(f"a prompt's braces don't pair ({error}). Blanks are {{object}} and {{defect}}") from None
        if wrong := sorted(blanks - BLANKS):
            raise ValueError(f"{{{wrong[0]}}} is no blank of a prompt. There are {{object}} and {{defect}}")
        return prompt

    @field_validator("stages")
    @classmethod
    def _known_stages(cls, stages: str) -> str:
        find_stages(stages)
        return stages

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, backbone: str) -> str:
        if backbone not in BACKBONES:
            raise ValueError(f"There are {', '.join(BACKBONES)}")
        return backbone

    @model_validator(mode="after")
    def _consistent(self) -> "AdaBLDMConfig":
        published = SIZES[self.size].image
        step = SIZES[self.size].autoencoder.factor * SIZES[self.size].unet.size_multiple
        if self.image_size % step:
            raise ValueError(
                f"image_size is {self.image_size}, but {self.size} needs a multiple of {step}. Set, say, {published}"
            )
        if self.domain_epochs > self.epochs:
            raise ValueError(
                f"domain_epochs is {self.domain_epochs}, more than epochs: {self.epochs}, of which they are a part"
            )
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"micro_batches is {self.micro_batches}, which does not divide batch_size: {self.batch_size}"
            )
        if self.text == "labels" and self.negative_prompt:
            raise ValueError(
                f"negative_prompt is {self.negative_prompt!r}, but with text: labels only whole prompts of the "
                "training are known. Leave it empty, or set text to clip"
            )
        return self
