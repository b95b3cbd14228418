"""Backbones as ONNX graphs: ONNX Runtime's features are JAX's, at any batch."""

import numpy as np
import pytest
from onnx_against_jax import bytes_, check, operations

from train.backbones import find_backbone
from train.backbones.pretrained import features, random_weights


@pytest.mark.parametrize(("name", "size", "convolutions"), [("mini", 64, 4), ("resnet18", 64, 15), ("mobilenet_v1_025", 64, 23)])
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
