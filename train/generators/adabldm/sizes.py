"""Sizes of the system (sheet: "Sizing"): `tiny` for tests, `small` to be trained from scratch, `sd15` as published."""

from dataclasses import dataclass, field

from train.generators.adabldm.autoencoder import KLSpec
from train.generators.adabldm.text import ClipSpec, LabelSpec, WordSpec
from train.generators.adabldm.tiny_autoencoder import TAEF2, TinySpec
from train.generators.adabldm.trimap import TrimapSpec
from train.generators.adabldm.unet import UNetSpec

TextSpec = ClipSpec | WordSpec | LabelSpec


@dataclass(frozen=True)
class Size:
    """What the networks are built from; its parts must fit each other."""

    image: int = 256  # side, pixels
    autoencoder: KLSpec | TinySpec = field(default_factory=KLSpec)
    unet: UNetSpec = field(default_factory=UNetSpec)
    trimap: TrimapSpec = field(default_factory=TrimapSpec)
    text: TextSpec = field(default_factory=ClipSpec)

    def __post_init__(self) -> None:
        step = self.autoencoder.factor * self.unet.size_multiple
        if self.image < step or self.image % step:
            raise ValueError(f"The image's side is {self.image}, but these networks need a multiple of {step} pixels.")
        for what, found, wanted in (
            ("latent channels of the denoiser", self.unet.latent_channels, self.autoencoder.latent_channels),
            ("channels of the denoiser's context", self.unet.context, self.text.width),
            ("factor of the trimap embedding", self.trimap.factor, self.autoencoder.factor),
        ):
            if found != wanted:
                raise ValueError(f"The {what}: found {found}, but the networks around it need {wanted}.")

    @property
    def latent(self) -> int:
        """Side of a latent, cells."""
        return self.image // self.autoencoder.factor


TINY = Size(
    image=32,
    autoencoder=KLSpec(width=16, multipliers=(1, 2, 2), residual_blocks=1, groups=8),
    unet=UNetSpec(
        width=32, multipliers=(1, 2), residual_blocks=1, transformers=(False, True), heads=4, context=64, groups=8
    ),
    trimap=TrimapSpec((8, 16, 32)),
    text=WordSpec(words=512, tokens=16, width=64),
)
SMALL = Size(
    image=128,
    autoencoder=TAEF2,
    unet=UNetSpec(
        latent_channels=32, width=96, multipliers=(1, 2, 3), transformers=(False, True, True), heads=6, context=192
    ),
    text=LabelSpec(tokens=4, width=192),
)
SD15 = Size()
SIZES = {"tiny": TINY, "small": SMALL, "sd15": SD15}
