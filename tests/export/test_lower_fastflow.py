"""FastFlow's score as a graph, with tiles and with a mask: ONNX Runtime gives what JAX gives, from uint8 images."""

from collections import Counter

import numpy as np
import onnx
import pytest
from flax import nnx
from onnx_against_jax import bytes_, check, operations

from train.detectors.fastflow import FASTFLOW, FastFlowConfig


def lowered(masked: bool, **settings: object) -> onnx.ModelProto:
    """The graph of an untrained network, after its scores were found equal to JAX's."""
    given = {"backbone": "mini", "image_size": 64, "flow_steps": 2, "normalisation": "whiten", "top_share": 0.01}
    config = FastFlowConfig.model_validate(given | settings)
    network = FASTFLOW.build(config, nnx.Rngs(0))
    network.eval()
    weights = FASTFLOW.fold(network, FASTFLOW.frozen.load(config), config)
    size = config.image_size
    mask = np.zeros((size, size), bool)
    mask[10:50, 12:40] = mask[size - 10 :, size - 7 :] = True

    def function(images):
        if masked:
            return tuple(FASTFLOW.masking.score(weights, images, config, mask))
        return tuple(FASTFLOW.score(weights, images, config))

    return check(function, (size, size, 3), dtype=np.uint8, draw=bytes_, tolerance=1e-5)


def readers_of_the_image(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if "x0" in node.input]


@pytest.fixture(scope="module")
def plain() -> Counter[str]:
    return operations(lowered(False))


def test_a_mask_costs_one_operation(plain):
    assert plain["Where"] == 0
    assert operations(lowered(True)) - plain == {"Where": 1}


def test_tiles_are_cut_and_blended_in_the_graph(plain):
    model = lowered(False, image_size=128, tile=64, tile_overlap=16)
    more = operations(model) - plain
    assert set(more) <= {"Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Mul", "Add"}
    assert readers_of_the_image(model) == ["Cast"]  # TensorRT takes bytes as an input and allows nothing else on them


@pytest.mark.parametrize("normalisation", ["whiten", "layer_norm"])
def test_tiles_under_a_mask(normalisation):
    """layer_norm needs the judged cells of each tile; six of nine hold none and are left out."""
    model = lowered(True, image_size=160, tile=64, tile_overlap=16, normalisation=normalisation)
    assert "Cast" in readers_of_the_image(model)
    assert set(readers_of_the_image(model)) <= {"Cast", "Shape"}
