"""Every system's graph, in every precision, becomes an engine plan in TensorRT-RTX's own parser and builder.

They need no GPU and no driver. An operation or a type that TensorRT can't take fails here, and so does a Transpose that
comes in unnoticed. Whether the plan runs and what it scores is seen on a device, against the golden set.
"""

import importlib.util
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
import onnx
import pytest
from flax import nnx
from test_lower_fastflow import lowered as fastflow_lowered

from edge_agent.engines.tensorrt.log import Heard, make_logger
from export.detector import OUTPUTS
from export.lower import InputSpec, lower
from export.precision.graph import FloatGraph
from export.precision.half import to_half
from export.precision.int8 import give_back, quantise
from train.detectors.aesc import AESC
from train.detectors.aesc.config import AEScConfig
from train.detectors.fastflow import FASTFLOW, FastFlowConfig

if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt_rtx is not installed (pip install tensorrt-rtx)", allow_module_level=True)
import tensorrt_rtx as trt

PRECISIONS = ("fp32", "fp16", "int8")
TARGET = "SM86"


def graph(score: Callable[[jax.Array], Any], size: int, name: str) -> onnx.ModelProto:
    """As export/detector.py writes it, with thresholds that were fitted to nothing."""

    def scores(images):
        raw = score(images)
        return raw.image_score / 2.0, raw.anomaly_map / 3.0, raw.image_score

    return lower(scores, {"image": InputSpec(("batch", size, size, 3), np.uint8)}, OUTPUTS, name=name)


def aesc_graph(**settings: object) -> onnx.ModelProto:
    """An untrained AESc of 128 pixels."""
    config = AEScConfig.model_validate({"image_size": 128, "filters": 2, "dropout_passes": 2} | settings)
    network = AESC.build(config, nnx.Rngs(0))
    network.eval()
    weights = AESC.fold(network, None, config)
    return graph(lambda images: AESC.score(weights, images, config), config.image_size, "aesc")


def fastflow_graph() -> onnx.ModelProto:
    """An untrained FastFlow of 64 pixels; tests/export/test_lower_fastflow.py has those with tiles and masks."""
    given = {"backbone": "mini", "image_size": 64, "flow_steps": 2, "normalisation": "layer_norm", "top_share": 0.01}
    config = FastFlowConfig.model_validate(given)
    network = FASTFLOW.build(config, nnx.Rngs(0))
    network.eval()
    weights = FASTFLOW.fold(network, FASTFLOW.frozen.load(config), config)
    return graph(lambda images: FASTFLOW.score(weights, images, config), config.image_size, "fastflow")


@dataclass(frozen=True)
class System:
    """A detector's graph and what it may hold."""

    graph: Callable[[], onnx.ModelProto]
    shuffles: int  # TensorRT's layers; but for the Transposes they bring constants to the rank of what they meet
    transposes: int = 1  # from NHWC, as images lie in memory, to NCHW


SYSTEMS = {
    "aesc": System(aesc_graph, 25),
    "aesc uncertainty": System(lambda: aesc_graph(scoring="uncertainty"), 60),
    # Its six levels end in one pixel, where interleaving pixels is a Reshape, channels last: there and back.
    "aesc 64": System(lambda: aesc_graph(image_size=64), 25, transposes=3),
    "fastflow": System(fastflow_graph, 60),
}
ALL = [(name, precision) for name in ("aesc", "aesc uncertainty", "fastflow") for precision in PRECISIONS]


@dataclass(frozen=True)
class Plan:
    layers: Counter[str]
    permutations: int  # shuffle layers that move axes
    size_bytes: int
    errors: str


@cache
def graph_of(name: str) -> onnx.ModelProto:
    return SYSTEMS[name].graph()


def in_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Every layer that may be in `precision` in it: more than ships, where layers are given back."""
    if precision == "fp32":
        return model
    graph = FloatGraph(model)
    if precision == "fp16":
        return to_half(graph)
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    images = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.uint8)
    return give_back(graph, quantise(graph, images), frozenset())


def plan_of(model: onnx.ModelProto, *, largest_batch: int = 4) -> Plan:
    """Parse and build as edge_agent/engines/tensorrt/build.py does, ahead of time for one GPU."""
    heard = Heard()
    logger = make_logger(trt, heard)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    assert parsed, [(error.node_name(), error.node_operator(), error.desc()) for error in errors]
    image = network.get_input(0)
    name, shape = image.name, tuple(image.shape)[1:]
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    profile.set_shape(name, (1, *shape), (1, *shape), (largest_batch, *shape))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[TARGET], 0)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = Counter(layer.type.name for layer in layers)
    permutations = sum(moves_axes(layer) for layer in layers if layer.type == trt.LayerType.SHUFFLE)
    plan = builder.build_serialized_network(network, config)
    said = heard.errors()
    assert plan is not None, said
    return Plan(kinds, permutations, plan.nbytes, said)


def moves_axes(layer: trt.ILayer) -> bool:
    layer.__class__ = trt.IShuffleLayer
    rank = len(layer.get_input(0).shape)
    in_order = tuple(range(rank))
    return tuple(layer.first_transpose)[:rank] != in_order


@pytest.mark.parametrize(("name", "precision"), [*ALL, ("aesc 64", "fp32")])
def test_it_builds_with_no_layer_refused_and_no_transpose_it_does_not_need(name, precision, capsys):
    system, model = SYSTEMS[name], in_precision(graph_of(name), precision)
    operations = Counter(node.op_type for node in model.graph.node)
    plan = plan_of(model)
    with capsys.disabled():
        print(
            f"\n{name} {precision}: {sum(operations.values())} nodes, {operations['Transpose']} Transpose; "
            f"{sum(plan.layers.values())} layers, {plan.layers['SHUFFLE']} shuffles of which {plan.permutations} move "
            f"axes; plan {plan.size_bytes / 1e6:.1f} MB",
            end=" ",
        )
    assert plan.errors == ""
    assert operations["Transpose"] == system.transposes
    assert plan.permutations == system.transposes
    assert plan.layers["SHUFFLE"] <= system.shuffles
    if precision == "int8":
        assert plan.layers["QUANTIZE"] > 0
        assert plan.layers["DEQUANTIZE"] > plan.layers["QUANTIZE"]  # weights come quantised


@pytest.mark.parametrize(
    ("masked", "settings"),
    [
        (True, {}),
        (True, {"image_size": 160, "tile": 64, "tile_overlap": 16, "normalisation": "layer_norm"}),
    ],
    ids=["mask", "tiles under a mask"],
)
def test_masks_and_tiles_build(masked, settings):
    model = fastflow_lowered(masked, **settings)
    plan = plan_of(model)
    assert plan.errors == ""
    assert plan.permutations == Counter(node.op_type for node in model.graph.node)["Transpose"] == 1
