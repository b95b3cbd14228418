"""Builds an engine file from a bundle with TensorRT's own parser, and proves it on the golden set of the bundle."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_agent.bundle import MODEL, Bundle
from edge_agent.engines import EngineError, EngineNotBuilt
from edge_agent.engines.tensorrt import timing
from edge_agent.engines.tensorrt.api import (
    NAMES,
    Builder,
    CudaDriver,
    Flavour,
    IBuilderConfig,
    INetworkDefinition,
    OnnxParser,
    TensorRT,
    load,
    load_driver,
)
from edge_agent.engines.tensorrt.cache import EngineCache, EngineKey, Entry, Proof
from edge_agent.engines.tensorrt.cuda import Gpu, OutOfMemory, current, describe, explain, retain
from edge_agent.engines.tensorrt.log import Heard, make_logger
from edge_agent.engines.tensorrt.open import open_entry
from edge_agent.engines.tensorrt.progress import OnProgress, Phases, make_monitor
from edge_agent.engines.tensorrt.trtexec import trtexec_line

logger = logging.getLogger(__name__)


class WrongRequest(EngineError):
    """What was asked of the build can't be meant, whatever the bundle and the device."""


class Built(NamedTuple):
    path: Path  # the engine file
    key: str  # digest of all that it depends on
    seconds: float  # of this build; 0 where the cache had it
    trtexec: str  # the line that builds and times the same
    proof: Proof | None  # None: built ahead of time, to be proved at its first use on the device


@dataclass(frozen=True)
class Request:
    """How an engine is to be built."""

    batch_sizes: tuple[int, int, int] = (1, 1, 1)  # smallest, the one to be fastest at, largest
    workspace_bytes: int | None = None  # None: TensorRT's own choice, all memory
    optimization_level: int | None = None  # 0 to 5; None: TensorRT's own choice
    allow_tf32: bool = False  # float32 products with 10 bits: faster, and further from the golden set
    target: str | None = None  # "sm86": ahead of time for another GPU, TensorRT-RTX only; None: this device

    def check(self, flavour: Flavour) -> None:
        smallest, best, largest = self.batch_sizes
        if not 1 == smallest <= best <= largest:
            raise WrongRequest(
                f"Batch sizes are {smallest}, {best}, {largest}; the smallest is 1, as the line judges, and they rise."
            )
        if self.workspace_bytes is not None and self.workspace_bytes < 2**20:
            raise WrongRequest(f"The workspace is {self.workspace_bytes} bytes; give at least 1 MiB, or leave it out.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise WrongRequest(f"The optimisation level is {self.optimization_level}; it goes from 0 to 5.")
        if self.target is not None and flavour != "tensorrt_rtx":
            raise WrongRequest(
                f"Only TensorRT-RTX builds ahead of time for another GPU, not {NAMES[flavour]}. Build on the device "
                "without --target, or give --engine tensorrt_rtx."
            )


def build_engine(
    bundle: Bundle,
    *,
    flavour: Flavour,
    cache: Path,
    batch_sizes: tuple[int, int, int] = (1, 1, 1),
    workspace_bytes: int | None = None,
    device: int = 0,
    on_progress: OnProgress = lambda phase, share: None,
    optimization_level: int | None = None,
    allow_tf32: bool = False,
    target: str | None = None,
    rebuild: bool = False,
) -> Built:
    """Build, keep in the cache, prove on this device. Blocks for minutes; an engine that was proved before serves on.

    EngineError where TensorRT can't build it or it disagrees with the golden set; then nothing new will be used.
    """
    request = Request(batch_sizes, workspace_bytes, optimization_level, allow_tf32, target)
    request.check(flavour)
    trt = load(flavour)
    driver = None if target is not None else _driver_for_build(flavour)
    here = None if driver is None else describe(driver, device)
    stock = EngineCache(cache)
    with stock.locked():
        heard = Heard()
        trt_logger = make_logger(trt, heard)
        with _device(driver, device):
            builder: Builder = trt.Builder(trt_logger)
            if builder is None:
                raise explain(heard.errors(), "starting the builder")
            config = _configure(builder, trt, request, flavour)
            key = _key(bundle, trt, request, flavour, config, here)
            if not rebuild and (known := _known(stock, key, bundle)) is not None:
                return Built(known.engine, key.digest, 0.0, known.side.trtexec, known.side.proof)
            on_progress("reading the model", 0.0)
            network, parser = _parse(bundle, builder, trt, trt_logger, flavour)
            _add_profile(builder, config, network, key, heard)
            _use_timing_cache(config, stock.folder, key)
            phases = Phases(on_progress)
            config.progress_monitor = monitor = make_monitor(trt, phases)
            started = time.monotonic()
            plan = _build(builder, network, config, phases, heard, bundle)
            seconds = time.monotonic() - started
            timing_path = _keep_timing_cache(config, stock.folder, key)
            line = trtexec_line(
                bundle.folder / MODEL,
                flavour=flavour,
                image=key.image,
                batch_sizes=batch_sizes,
                workspace_bytes=workspace_bytes,
                optimization_level=int(config.builder_optimization_level),
                allow_tf32=allow_tf32,
                timing=timing_path,
            )
            manifest = bundle.manifest
            entry = stock.store(
                key, plan, product=manifest.name, version=manifest.version, seconds=seconds, trtexec=line
            )
            del plan, network, parser, config, monitor, builder  # the engine needs their memory
        if driver is None or here is None:
            return Built(entry.engine, key.digest, seconds, line, None)
        on_progress("checking the golden set", 1.0)
        try:
            open_entry(bundle, entry, stock, trt=trt, driver=driver, here=here).close()
        except EngineNotBuilt as error:
            raise EngineError(f"The new engine is not used. {error}") from error
        proved = next(each for each in stock.entries() if each.path == entry.path)
        stock.remove_replaced(proved)
        return Built(proved.engine, key.digest, seconds, line, proved.side.proof)


def _driver_for_build(flavour: Flavour) -> CudaDriver:
    try:
        return load_driver()
    except EngineError as error:
        if flavour != "tensorrt_rtx":
            raise
        raise EngineError(
            f"{error} To build ahead of time for a GPU that is not here, give --target sm86, sm89 or sm120."
        ) from error


@contextmanager
def _device(driver: CudaDriver | None, number: int) -> Iterator[None]:
    """The GPU to build on, current in this thread; none where it is built ahead of time."""
    if driver is None:
        yield
        return
    context = retain(driver, number)
    try:
        with current(driver, context):
            yield
    finally:
        context.detach()


def _configure(builder: Builder, trt: TensorRT, request: Request, flavour: Flavour) -> IBuilderConfig:
    config = builder.create_builder_config()
    if not request.allow_tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # precision is written in the graph: float32 there is float32 here
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    if flavour == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, request.target), 0)
    return config


def _capability(trt: TensorRT, target: str | None) -> object:
    known = trt.ComputeCapability.__members__
    wanted = "CURRENT" if target is None else target.upper()
    if wanted not in known or (target is not None and not wanted.startswith("SM")):
        offered = ", ".join(name.lower() for name in known if name.startswith("SM"))
        raise WrongRequest(f"--target {target} is no GPU that TensorRT-RTX {trt.__version__} builds for: {offered}.")
    return known[wanted]


def _key(
    bundle: Bundle, trt: TensorRT, request: Request, flavour: Flavour, config: IBuilderConfig, here: Gpu | None
) -> EngineKey:
    digits = (request.target or "")[2:]
    preprocessing = bundle.manifest.preprocessing
    return EngineKey(
        onnx_sha256=bundle.manifest.sha256[MODEL],
        flavour=flavour,
        tensorrt=trt.__version__,
        sm=here.sm if here is not None else f"{digits[:-1]}.{digits[-1:]}",
        gpu=None if here is None else here.name,
        cuda=None if here is None else here.cuda,
        precision=bundle.manifest.precision,
        image=(preprocessing.height, preprocessing.width),
        batch_sizes=request.batch_sizes,
        builder_flags={
            "strongly_typed": True,
            "tf32": request.allow_tf32,
            "optimization_level": int(config.builder_optimization_level),
            "workspace_bytes": request.workspace_bytes,
        },
    )


def _known(stock: EngineCache, key: EngineKey, bundle: Bundle) -> Entry | None:
    """What the cache has for this very key, whole, and proved for this bundle where it was built for this device.

    EngineError where it failed the golden set: minutes of building at every start would end alike.
    """
    for entry in stock.entries():
        proof, refused = entry.side.proof, entry.side.refused
        if entry.side.key != key:
            continue
        if refused is not None:
            if refused.bundle == bundle.digest:
                raise EngineError(f"Built on {refused.when}, it is not used. {refused.why} --rebuild tries again.")
            continue
        if key.gpu is not None and (proof is None or proof.bundle != bundle.digest):
            continue
        try:
            stock.read(entry)
        except EngineNotBuilt as error:
            logger.warning("%s. It is built again.", error)
            continue
        return entry
    return None


def _parse(
    bundle: Bundle, builder: Builder, trt: TensorRT, trt_logger: object, flavour: Flavour
) -> tuple[INetworkDefinition, OnnxParser]:
    """The network, and the parser, which owns its weights."""
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # implied from TensorRT 11 on
    network = builder.create_network(strongly_typed)
    parser: OnnxParser = trt.OnnxParser(network, trt_logger)
    if not parser.parse(bundle.read(MODEL)):
        raise EngineError(_parser_said(bundle, parser, f"{NAMES[flavour]} {trt.__version__}"))
    return network, parser


def _parser_said(bundle: Bundle, parser: OnnxParser, tensorrt: str) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    where = f"{tensorrt} can't read {bundle.folder / MODEL}"
    if not errors:
        return f"{where}, and gives no reason. Export the bundle again, or update TensorRT."
    first, more = errors[0], len(errors) - 1
    reason = " ".join(first.desc().split()).rstrip(".")
    node = f"node {first.node_name() or 'without a name'}, operation {first.node_operator()}: " * bool(
        first.node_operator()
    )
    others = f" (and {more} more)" if more else ""
    return (
        f"{where}: {node}{reason}{others}. Export the bundle again, update TensorRT, or run it with engine.kind "
        "onnxruntime."
    )


def _add_profile(
    builder: Builder, config: IBuilderConfig, network: INetworkDefinition, key: EngineKey, heard: Heard
) -> None:
    profile = builder.create_optimization_profile()
    smallest, best, largest = ((n, *key.image, 3) for n in key.batch_sizes)
    try:
        profile.set_shape("image", smallest, best, largest)
        index = config.add_optimization_profile(profile)
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"TensorRT refuses the batch sizes {key.batch_sizes}: {error}.") from error
    if index < 0:
        inputs = [(network.get_input(i).name, tuple(network.get_input(i).shape)) for i in range(network.num_inputs)]
        raise EngineError(
            f"TensorRT refuses the batch sizes {key.batch_sizes} for a model that takes {inputs}: {heard.errors()}. "
            "Its batch should be free to vary; export the bundle again."
        )


def _build(
    builder: Builder,
    network: INetworkDefinition,
    config: IBuilderConfig,
    phases: Phases,
    heard: Heard,
    bundle: Bundle,
) -> memoryview:
    doing = f"building the engine of {bundle.folder}"
    try:
        plan = builder.build_serialized_network(network, config)
    except MemoryError as error:
        raise OutOfMemory(_out_of_memory(doing, str(error) or "out of memory")) from error
    except RuntimeError as error:  # pybind11's face of a C++ exception
        raise explain(str(error), doing) from error
    if phases.failure is not None:
        raise phases.failure
    if plan is None:
        said = heard.errors()
        failure = explain(said, doing)
        raise OutOfMemory(_out_of_memory(doing, said)) if isinstance(failure, OutOfMemory) else failure
    return memoryview(plan)  # type: ignore[arg-type]  # it has the buffer protocol


def _out_of_memory(doing: str, said: str) -> str:
    return (
        f"Out of memory while {doing} ({said}). Nothing was written. Give the builder a limit with --workspace-mib, "
        "smaller batches, a lower --optimization-level, or more memory: end what else uses it, add swap on a Jetson."
    )


def _use_timing_cache(config: IBuilderConfig, folder: Path, key: EngineKey) -> None:
    if key.flavour == "tensorrt_rtx":  # it measures nothing while it builds; its timing cache is deprecated and empty
        return
    data = timing.read(folder, key.tensorrt, key.sm)
    if config.set_timing_cache(config.create_timing_cache(data), False):
        return
    logger.warning("TensorRT does not take the timing cache in %s; this build measures anew.", folder)
    config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timing_cache(config: IBuilderConfig, folder: Path, key: EngineKey) -> Path | None:
    if key.flavour == "tensorrt_rtx":
        return None
    measured = config.get_timing_cache()
    if measured is None:
        return None
    return timing.store(folder, key.tensorrt, key.sm, bytes(memoryview(measured.serialize())))  # type: ignore[arg-type]
