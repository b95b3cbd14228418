"""Opens the engine file of a bundle that fits this device, is whole, and has agreed with the golden set here."""

import logging
from pathlib import Path

from edge_agent.bundle import MODEL, Bundle
from edge_agent.engines import EngineError, EngineNotBuilt
from edge_agent.engines.golden import GoldenResult, check_golden
from edge_agent.engines.tensorrt.api import NAMES, CudaDriver, Flavour, TensorRT, load, load_driver
from edge_agent.engines.tensorrt.cache import EngineCache, Entry
from edge_agent.engines.tensorrt.cuda import DeviceLost, Gpu, OutOfMemory, describe
from edge_agent.engines.tensorrt.runtime import TensorRTEngine

logger = logging.getLogger(__name__)


def open_tensorrt(bundle: Bundle, *, flavour: Flavour, cache: Path, device: int = 0) -> TensorRTEngine:
    """Loads an engine file from the cache, builds nothing. EngineNotBuilt where none fits; it says why.

    One that was built ahead of time, or proved on the golden set of another bundle with the same model, proves itself
    now; where it disagrees it is refused for good.
    """
    trt, driver = load(flavour), load_driver()
    here = describe(driver, device)
    stock = EngineCache(cache)
    reasons = []
    for entry in stock.of_model(bundle.manifest.sha256[MODEL], flavour):
        refused = entry.side.refused
        why = refused.why if refused is not None else entry.side.key.misfit(trt.__version__, here)
        if why is None:
            try:
                return open_entry(bundle, entry, stock, trt=trt, driver=driver, here=here)
            except EngineNotBuilt as error:
                why = str(error)
        reasons.append(f"{entry.path.name}: {why.rstrip('.')}")
    reasons += stock.unreadable
    raise EngineNotBuilt(
        f"No {NAMES[flavour]} engine in {cache} can be used for {bundle.folder}"
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + f". Build it on this device: python -m edge_agent build {bundle.folder} --cache {cache}."
    )


def open_entry(
    bundle: Bundle, entry: Entry, stock: EngineCache, *, trt: TensorRT, driver: CudaDriver, here: Gpu
) -> TensorRTEngine:
    """The engine of one entry, proved. EngineNotBuilt where it is damaged, not taken, or fails the golden set."""
    preprocessing = bundle.manifest.preprocessing
    engine = TensorRTEngine(
        stock.read(entry),
        trt=trt,
        driver=driver,
        flavour=entry.side.key.flavour,
        size=(preprocessing.height, preprocessing.width),
        device=here.number,
    )
    try:
        proof = entry.side.proof
        if proof is None or proof.bundle != bundle.digest:
            result = prove(bundle, engine, entry, stock)
            try:
                stock.prove(entry, result, bundle.digest, here)
            except EngineError as error:  # a cache that can only be read: it proves itself at every start
                logger.warning("The proof of %s can't be noted: %s", entry.engine, error)
    except BaseException:
        engine.close()
        raise
    return engine


def prove(bundle: Bundle, engine: TensorRTEngine, entry: Entry, stock: EngineCache) -> GoldenResult:
    """Hold the engine to the golden set, one part at a time and in its largest batch; refuse it where it fails."""
    try:
        results = [check_golden(engine, bundle, batch=batch) for batch in sorted(set(engine.batch_sizes))]
    except (DeviceLost, OutOfMemory):
        raise  # says nothing about the engine file
    except EngineError as error:
        stock.refuse(entry, str(error), bundle.digest)
        raise EngineNotBuilt(str(error)) from error
    return GoldenResult(
        n=results[0].n,
        map_error=max(result.map_error for result in results),
        score_error=max(result.score_error for result in results),
        verdict_flips=max(result.verdict_flips for result in results),
    )
