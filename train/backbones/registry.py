"""Name -> backbone."""

import difflib

from train.backbones.backbone import Backbone
from train.backbones.cait import CAIT_M48_448
from train.backbones.deit import DEIT_BASE_DISTILLED_384
from train.backbones.dinov2 import DINOV2
from train.backbones.mini import MINI
from train.backbones.mobilenet import MOBILENET_V1_025
from train.backbones.resnet import RESNET18
from train.backbones.wide_resnet import WIDE_RESNET50_2

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        *(RESNET18, WIDE_RESNET50_2, DEIT_BASE_DISTILLED_384, CAIT_M48_448),  # the paper's
        *(*DINOV2, MOBILENET_V1_025, MINI),
    )
}


def find_backbone(name: str) -> Backbone:
    """KeyError with a sentence where there is none of that name."""
    if name in BACKBONES:
        return BACKBONES[name]
    near = difflib.get_close_matches(name, BACKBONES, n=1)
    raise KeyError(
        f"{name} is not a backbone. " + (f"Did you mean {near[0]}?" if near else f"There are: {', '.join(BACKBONES)}.")
    )
