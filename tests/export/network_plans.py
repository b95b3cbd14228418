"""An ONNX graph as TensorRT-RTX takes it: parsed and built ahead of time, without a GPU and without a driver."""

import onnx
import pytest

TARGET = "SM86"
BATCHES = (1, 4, 16)  # smallest, likeliest, largest


def assert_taken(model: onnx.ModelProto, *, built: bool) -> None:
    """By the parser; if `built`, by the builder too, which takes seconds. Every size that is left open is a batch."""
    trt = pytest.importorskip("tensorrt_rtx")
    from edge_agent.engines.tensorrt.log import Heard, make_logger

    heard = Heard()
    logger = make_logger(trt, heard)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), heard.errors()
    if not built:
        return
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape:
            profile.set_shape(tensor.name, *[tuple(n if size == -1 else size for size in shape) for n in BATCHES])
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[TARGET], 0)
    assert builder.build_serialized_network(network, config) is not None, heard.errors()
    assert heard.errors() == ""
