"""A graph in TensorRT or TensorRT-RTX: built when it is opened, for one GPU and one batch size, and run by PyCUDA."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx

from edge_agent.engines import EngineError
from edge_agent.engines.tensorrt.api import (
    NAMES,
    Builder,
    DeviceAllocation,
    Flavour,
    OnnxParser,
    PagelockedHostAllocation,
    TensorRT,
    load,
    load_driver,
)
from edge_agent.engines.tensorrt.cuda import current, describe, explain, retain, sentences
from edge_agent.engines.tensorrt.log import Heard, make_logger
from export.graph_engines.shapes import Tensor, inputs_of, outputs_of


def build_plan(
    model: onnx.ModelProto, batch: int, trt: TensorRT, *, flavour: Flavour, target: str = "CURRENT"
) -> bytes:
    """The engine file of a graph. `target`: with TensorRT-RTX another GPU, ahead of time, such as SM86.

    EngineError where TensorRT refuses an operation or has too little memory. Precision is the graph's: no TF32.
    """
    heard = Heard()
    logger = make_logger(trt, heard)
    builder: Builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser: OnnxParser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(f"{NAMES[flavour]} {trt.__version__} can't read {model.graph.name}: {errors or 'no reason'}.")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.clear_flag(trt.BuilderFlag.TF32)
    for tensor in inputs_of(model, batch):
        profile.set_shape(tensor.name, tensor.shape, tensor.shape, tensor.shape)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{NAMES[flavour]} refuses batches of {batch}: {heard.errors()}.")
    if flavour == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[target], 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise explain(heard.errors(), f"building {model.graph.name}")
    return bytes(cast(Any, plan))


class TensorRTGraph:
    """Everything is allocated once; a run copies in, executes and copies out on one stream, and waits."""

    def __init__(self, model: onnx.ModelProto, batch: int, *, flavour: Flavour, device: int = 0):
        trt, self._driver = load(flavour), load_driver()
        gpu = describe(self._driver, device)
        self.name = f"{flavour} {trt.__version__} on {gpu.name}"
        self._inputs, self._outputs = inputs_of(model, batch), outputs_of(model, batch)
        self._host: dict[str, np.ndarray] = {}  # pinned
        self._device: dict[str, DeviceAllocation] = {}
        self._heard = Heard()
        self._gpu: Any = retain(self._driver, device)
        try:
            with sentences(self._driver, "opening the engine"), current(self._driver, self._gpu):
                plan = build_plan(model, batch, trt, flavour=flavour)
                self._logger = make_logger(trt, self._heard)
                self._runtime: Any = trt.Runtime(self._logger)
                self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
                self._context: Any = self._engine.create_execution_context() if self._engine else None
                if self._context is None:
                    raise explain(self._heard.errors(), "opening the engine")
                self._stream: Any = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING
                for tensor in (*self._inputs, *self._outputs):
                    self._allocate(tensor)
        except BaseException:
            self.close()
            raise

    def _allocate(self, tensor: Tensor) -> None:
        host = self._driver.pagelocked_empty(tensor.shape, tensor.dtype.type)
        self._host[tensor.name] = host
        self._device[tensor.name] = self._driver.mem_alloc(max(host.nbytes, 1))
        shaped = tensor not in self._inputs or self._context.set_input_shape(tensor.name, tensor.shape)
        if not shaped or not self._context.set_tensor_address(tensor.name, int(self._device[tensor.name])):
            raise explain(self._heard.errors(), "opening the engine")

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        with sentences(self._driver, "drawing a batch"), current(self._driver, self._gpu):
            for tensor in self._inputs:
                np.copyto(self._host[tensor.name], inputs[tensor.name])
                self._driver.memcpy_htod_async(self._device[tensor.name], self._host[tensor.name], self._stream)
            if not self._context.execute_async_v3(self._stream.handle):
                raise explain(self._heard.errors(), "drawing a batch")
            for tensor in self._outputs:
                self._driver.memcpy_dtoh_async(self._host[tensor.name], self._device[tensor.name], self._stream)
            self._stream.synchronize()
            return [self._host[tensor.name].copy() for tensor in self._outputs]

    def close(self) -> None:
        if self._gpu is None:
            return
        gpu, self._gpu = self._gpu, None
        with sentences(self._driver, "closing the engine"):
            gpu.push()
            try:
                if getattr(self, "_stream", None) is not None:
                    self._stream.synchronize()
                for memory in self._device.values():
                    memory.free()
                for pinned in self._host.values():
                    cast(PagelockedHostAllocation, pinned.base).free()
                self._stream = self._context = self._engine = self._runtime = None
            finally:
                gpu.detach()  # and no longer current
