"""Backbones as ONNX graphs: ONNX Runtime's features are JAX's, at any batch."""

import numpy as np
import pytest
from onnx_against_jax import bytes_, check, operations

from train.backbones import find_backbone
from train.backbones.cait import make_cait
from train.backbones.deit import make_deit
from train.backbones.dinov2 import make_dinov2
from train.backbones.pretrained import features, random_weights
from train.backbones.vit import ViTSpec


@pytest.mark.parametrize(
    ("name", "size", "convolutions"), [("mini", 64, 4), ("resnet18", 64, 15), ("mobilenet_v1_025", 64, 23)]
)
def test_convolutional_backbones(name, size, convolutions):
    backbone = find_backbone(name)
    module = random_weights(backbone, size, seed=0)
    model = check(
        lambda images: features(module, images, backbone), (size, size, 3), dtype=np.uint8, draw=bytes_, tolerance=1e-5
    )
    counts = operations(model)
    assert counts["Conv"] == convolutions
    assert counts["MaxPool"] == (name == "resnet18")
    assert counts["Transpose"] == 1 + len(backbone.taps)  # at the entrance, and each map back to channels last


SMALL_DEIT = make_deit(
    "small_deit", ViTSpec(24, heads=3, blocks=2, patch=16, prefixes=2), published_blocks=2, image_size=64, hub=None
)
SMALL_DINOV2 = make_dinov2(
    "small_dinov2",
    ViTSpec(24, heads=3, blocks=2, patch=14, prefixes=5, layer_scale=True),
    published_blocks=2,
    image_size=56,
    hub=None,
)
SMALL_CAIT = make_cait(
    "small_cait",
    ViTSpec(24, heads=4, blocks=2, patch=16, layer_scale=True, talking_heads=True),
    published_blocks=2,
    image_size=64,
    hub=None,
)


@pytest.mark.parametrize("backbone", [SMALL_DEIT, SMALL_DINOV2, SMALL_CAIT], ids=lambda backbone: backbone.name)
def test_transformers(backbone):
    size = backbone.image_size
    module = random_weights(backbone, size, seed=0)
    model = check(
        lambda images: features(module, images, backbone), (size, size, 3), dtype=np.uint8, draw=bytes_, tolerance=1e-5
    )
    counts = operations(model)
    assert counts["Erf"] == counts["Exp"] == backbone_blocks(backbone)
    assert counts["MatMul"] == 6 * backbone_blocks(backbone)  # four maps of channels, keys with queries, values


def backbone_blocks(backbone) -> int:
    return int(backbone.taps[0].name.removeprefix("block"))
