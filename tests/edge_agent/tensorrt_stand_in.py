"""The TensorRT half of `cuda_stand_in.StandIn`, on whose imaginary machine it builds and executes."""

import importlib.machinery
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


def empty_module(name: str) -> Any:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    return module


def tensorrt_module(machine: Any) -> Any:
    """`tensorrt`: parses with ONNX's own checker of operations, "builds" by keeping the model."""
    module = empty_module("tensorrt")
    module.__version__ = machine.tensorrt

    class ILogger:
        def log(self, severity: Any, msg: str) -> None:
            raise AssertionError("a subclass logs")

    class IProgressMonitor:
        pass

    def error(logger: Any, text: str) -> None:
        logger.log("Severity.ERROR", text)

    class Network:
        def __init__(self, flags: int) -> None:
            self.flags, self.model = flags, b""
            self.num_inputs, self.num_layers = 1, 0

        def get_input(self, index: int) -> Any:
            return SimpleNamespace(name="image", shape=(-1,))

    class Parser:
        def __init__(self, network: Network, logger: Any) -> None:
            self._network, self._errors = network, []

        def parse(self, model: bytes) -> bool:
            import onnx

            self._network.model = bytes(model)
            known = onnx.defs.has
            for node in onnx.load_from_string(model).graph.node:
                if not known(node.op_type, node.domain):
                    self._errors.append(
                        SimpleNamespace(
                            desc=lambda: "Plugin not found, are the plugin name, version, and namespace correct?",
                            node_name=lambda node=node: node.name,
                            node_operator=lambda node=node: node.op_type,
                        )
                    )
            return not self._errors

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

    class Timing:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> bytes:
            return self.data + b" measured" if b" measured" not in self.data else self.data

    class Config:
        builder_optimization_level = 3
        progress_monitor: Any = None

        def __init__(self) -> None:
            self.flags, self.pools, self.profile, self.timing = {"TF32"}, {}, None, None

        def clear_flag(self, flag: str) -> None:
            self.flags.discard(flag)

        def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
            self.pools[pool] = pool_size

        def add_optimization_profile(self, profile: Any) -> int:
            self.profile = profile
            return 0

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Timing:
            machine.seen_timing.append(bytes(serialized_timing_cache))
            return Timing(bytes(serialized_timing_cache))

        def set_timing_cache(self, cache: Timing, ignore_mismatch: bool) -> bool:
            self.timing = cache
            return True

        def get_timing_cache(self) -> Timing | None:
            return self.timing

    class Profile:
        def __init__(self) -> None:
            self.of: dict[str, list[tuple[int, ...]]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self.of[input] = [tuple(min), tuple(opt), tuple(max)]

        @property
        def shapes(self) -> list[tuple[int, ...]]:
            return self.of["image"]

    class Builder:
        def __init__(self, logger: Any) -> None:
            machine.rule(bool(machine.stack), "a builder without a context current")
            self._logger = logger

        def create_network(self, flags: int = 0) -> Network:
            machine.networks.append(flags)
            return Network(flags)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            machine.configs.append(config)
            if config.progress_monitor is not None:
                config.progress_monitor.phase_start("Building engine", None, 2)
                for step in range(2):
                    if not config.progress_monitor.step_complete("Building engine", step):
                        return None
                config.progress_monitor.phase_finish("Building engine")
            if machine.build_fails_with is not None:
                error(self._logger, machine.build_fails_with)
                return None
            head = {"tensorrt": machine.tensorrt, "sm": machine.sm, "shapes": config.profile.of}
            return json.dumps(head).encode() + b"\n" + network.model

    class Context:
        def __init__(self, session: Any, head: Any, logger: Any) -> None:
            self._session, self._head, self._logger = session, head, logger
            self._inputs = {each.name: each.type for each in session.get_inputs()}
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            smallest, _, largest = self._head["shapes"][name]
            if not smallest[0] <= shape[0] <= largest[0] or list(shape[1:]) != smallest[1:]:
                error(self._logger, f"shape {shape} is outside the profile")
                return False
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            machine.content(memory, 1, "giving TensorRT")
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            outputs = [each.name for each in self._session.get_outputs()]
            missing = {*self._inputs, *outputs} - set(self._addresses)
            machine.rule(not missing, f"executing without the address of {sorted(missing)}")
            shapeless = set(self._inputs) - set(self._shapes)
            machine.rule(not shapeless, f"executing without the shape of {sorted(shapeless)}")
            machine.rule(bool(machine.stack), "executing with no context current")
            if "execute" in machine.fail_next:
                text = machine.fail_next.pop("execute")
                if "illegal" in text:
                    machine.sticky = text
                error(self._logger, f"IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime ({text})")
                return False
            shapes, addresses = dict(self._shapes), dict(self._addresses)

            def work() -> None:
                given = {}
                for name, kind in self._inputs.items():
                    dtype = np.dtype({"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[kind])
                    size = int(np.prod(shapes[name])) * dtype.itemsize
                    data = bytes(machine.content(addresses[name], size, "executing on")[:size])
                    given[name] = np.frombuffer(data, dtype).reshape(shapes[name])
                scores = dict(zip(outputs, self._session.run(outputs, given), strict=True))
                machine.executions.append(len(given["image"]))
                for name, values in machine.changes_scores(scores).items():
                    machine.content(addresses[name], values.nbytes, "writing to")[: values.nbytes] = values.tobytes()

            machine.driver.streams[stream_handle].add(work)
            return True

    class Engine:
        def __init__(self, head: Any, model: bytes, logger: Any) -> None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._head, self._logger = head, logger
            self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return self._tensors[index].name  # type: ignore[no-any-return]

        def get_tensor_mode(self, name: str) -> str:
            return "INPUT" if name in {each.name for each in self._session.get_inputs()} else "OUTPUT"

        def get_tensor_dtype(self, name: str) -> str:
            found = next(each.type for each in self._tensors if each.name == name)
            return {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT"}.get(found, found)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            shape = next(each.shape for each in self._tensors if each.name == name)
            return tuple(n if isinstance(n, int) else -1 for n in shape)

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
            return [tuple(shape) for shape in self._head["shapes"][name]]

        def create_execution_context(self) -> Context | None:
            if "create_execution_context" in machine.fail_next:
                error(self._logger, machine.fail_next.pop("create_execution_context"))
                return None
            return Context(self._session, self._head, self._logger)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            machine.rule(bool(machine.stack), "a runtime without a context current")
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            line, _, model = bytes(serialized_engine).partition(b"\n")
            head = json.loads(line)
            if (head["tensorrt"], tuple(head["sm"])) != (machine.tensorrt, machine.sm):
                error(
                    self._logger,
                    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not "
                    f"compatible with this version of TensorRT, expecting library version {machine.tensorrt} got "
                    f"{head['tensorrt']}, please rebuild.)",
                )
                return None
            return Engine(head, model, self._logger)

    module.ILogger, module.IProgressMonitor, module.Builder = ILogger, IProgressMonitor, Builder
    module.OnnxParser, module.Runtime = Parser, Runtime
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    module.BuilderFlag, module.MemoryPoolType = SimpleNamespace(TF32="TF32"), SimpleNamespace(WORKSPACE="WORKSPACE")
    module.TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    module.DataType = SimpleNamespace(UINT8="UINT8", FLOAT="FLOAT")
    return module
