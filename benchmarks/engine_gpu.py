"""Scoring on an NVIDIA GPU: engines of each precision, JAX and PyTorch on the same card, beside what the card can give.

    python benchmarks/engine_gpu.py --bundle bundles/bottle --bundle bundles/bottle-fp16 --bundle bundles/bottle-int8

A few minutes. Each bundle is built as `edge_agent build` builds it, with whatever runtime is here (TensorRT, else
TensorRT-RTX), and held to its golden set; where none is here the file says so, and JAX is measured alone. JAX and
PyTorch (if torch sees CUDA) run the FastFlow that the public ports are: ResNet18 at 256 px, 8 steps of 3x3, untrained.
Every side takes uint8 images in the host's memory and gives scores and maps there; times are of that whole way.
Latency: batch 1, one after the other. Throughput: the large batch; an engine overlaps two. The roofline: operations
and bytes as XLA counts them, over the rates of a large product of matrices and a large copy on this card.
Writes benchmarks/results/engine_gpu.json with date and versions.
"""

import json
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edge_agent.bundle import open_bundle
from edge_agent.engines import EngineError
from edge_agent.engines.tensorrt import build_engine, open_tensorrt
from edge_agent.engines.tensorrt.api import installed_flavour, load, load_driver

RESULTS = Path(__file__).parent / "results" / "engine_gpu.json"
PACKAGES = ("tensorrt", "tensorrt-rtx", "pycuda", "jax", "jaxlib", "torch", "numpy")
SIZE = 256
Scorer = Callable[[np.ndarray], object]


def main(
    bundle: Annotated[list[Path] | None, typer.Option(help="A bundle; once per precision.")] = None,
    batch: Annotated[int, typer.Option(help="The large batch.")] = 32,
    seconds: Annotated[float, typer.Option(help="Measured time of each row.")] = 5.0,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Try the script on JAX's CPU; writes nothing but to --out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here instead.")] = None,
    size: Annotated[int, typer.Option(help="Pixels of JAX's and PyTorch's images.")] = SIZE,
) -> None:
    """Measure, print a table, write the JSON."""
    platforms = {"gpu", "cuda", "cpu"} if cpu else {"gpu", "cuda"}
    with_jax = jax_platform() in platforms
    if not with_jax:
        try:
            load_driver()
        except EngineError as error:
            print(f"JAX sees no GPU here, and no engine can run: {error}")
            print("There is nothing to measure. Run this where an NVIDIA GPU is; --cpu tries the script out.")
            raise typer.Exit(1) from None
    record: dict[str, Any] = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **machine()}
    print(json.dumps(record))
    record["engines"] = engines(bundle or [], batch, seconds)
    record["jax"] = jax_rows(batch, seconds, size) if with_jax else {"none": "JAX sees no GPU here"}
    record["torch"] = torch_rows(batch, seconds, size)
    if with_jax:
        record["roofline"] = roofline(record["jax"], size=2048 if cpu else 8192, megabytes=64 if cpu else 1024)
    path = out or (None if cpu else RESULTS)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"Written: {path}")


def jax_platform() -> str | None:
    """What JAX computes on; None where JAX is not installed, as on a Jetson."""
    try:
        import jax
    except ImportError:
        return None
    return str(jax.devices()[0].platform)


def machine() -> dict[str, Any]:
    """What was measured on; no host name."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    asked = "name,driver_version,memory.total,power.limit,clocks.max.sm"
    smi = shutil.which("nvidia-smi")
    told = smi and subprocess.run(
        [smi, f"--query-gpu={asked}", "--format=csv,noheader"], check=False, capture_output=True, text=True
    )
    tegra = Path("/etc/nv_tegra_release")
    return {
        "gpu": told.stdout.splitlines()[0] if told and told.returncode == 0 and told.stdout else None,
        "l4t": tegra.read_text().splitlines()[0] if tegra.exists() else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def engines(bundles: list[Path], batch: int, seconds: float) -> dict[str, Any]:
    """Each bundle as an engine, or why there is none."""
    try:
        flavour = installed_flavour()
        trt = load(flavour)
    except EngineError as error:
        print(f"No engine is measured: {error}")
        return {"none": str(error)}
    if not bundles:
        print("No engine is measured: give bundles with --bundle.")
        return {"none": "no bundle was given"}
    rows: dict[str, Any] = {"runtime": flavour, "version": trt.__version__}
    for folder in bundles:
        bundle = open_bundle(folder)
        name = f"{bundle.manifest.system} {bundle.manifest.precision}"
        with tempfile.TemporaryDirectory() as cache:
            try:
                built = build_engine(bundle, flavour=flavour, cache=Path(cache), batch_sizes=(1, 1, batch))
                engine = open_tensorrt(bundle, flavour=flavour, cache=Path(cache))
            except EngineError as error:
                print(f"{name:28} {error}")
                rows[name] = {"failed": str(error)}
                continue
        images = random_images(batch, bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
        try:
            rows[name] = {
                "bundle": bundle.digest,
                "build_s": round(built.seconds, 1),
                "golden": built.proof and built.proof.model_dump(),
                "batch 1": timed(engine.run, images[:1], seconds),
                f"batch {batch}": overlapped(engine, images, seconds),
            }
        finally:
            engine.close()
        tell(name, rows[name], batch)
    return rows


def jax_rows(batch: int, seconds: float, size: int) -> dict[str, Any]:
    """Our scoring compiled by XLA, with float32 products as XLA does them by default, and with all their digits."""
    import jax

    rows: dict[str, Any] = {}
    exact = None
    for name, precision in (("highest", "highest"), ("default", None)):
        with jax.default_matmul_precision(precision):
            score, cost = jax_score(size, batch)
            scorer: Scorer = lambda images, score=score: jax.device_get(score(images))  # noqa: E731
            images = random_images(batch, size, size)
            found = jax.device_get(score(images))
            rows[name] = {
                "batch 1": timed(scorer, images[:1], seconds),
                f"batch {batch}": timed(scorer, images, seconds),
                "on the device": on_device(score, images, seconds),
                **cost,
            }
        exact = exact if exact is not None else found
        rows[name]["score_error"] = float(np.max(np.abs(found[0] - exact[0]) / np.maximum(np.abs(exact[0]), 1e-6)))
        tell(f"jax {name}", rows[name], batch)
    return rows


def jax_score(size: int, batch: int) -> tuple[Callable[[Any], Any], dict[str, float]]:
    """uint8 images to raw score and map; operations and bytes of the large batch, as XLA counts them."""
    import jax
    from flax import nnx

    from train.backbones import find_backbone
    from train.backbones.pretrained import random_weights
    from train.detectors import find_detector
    from train.detectors.fastflow.config import FastFlowConfig

    config = FastFlowConfig(normalisation="layer_norm_affine", image_size=size)
    detector = find_detector("fastflow")
    network = detector.build(config, nnx.Rngs(0))
    network.eval()
    weights = detector.fold(network, random_weights(find_backbone("resnet18"), size, 0), config)
    weights = jax.device_put(jax.tree.map(jax.numpy.asarray, weights))
    score = jax.jit(lambda weights, images: tuple(detector.score(weights, images, config)))
    counted = score.lower(weights, random_images(batch, size, size)).compile().cost_analysis() or {}
    cost = {"gflop": counted.get("flops", 0.0) / 1e9, "gbyte": counted.get("bytes accessed", 0.0) / 1e9}
    return lambda images: score(weights, images), cost


def torch_rows(batch: int, seconds: float, size: int) -> dict[str, Any]:
    """PyTorch as its users run it, or why it was not measured."""
    try:
        import torch
        from torch_fastflow import FastFlow
    except ImportError as error:
        print(f"PyTorch is not measured: {error}")
        return {"none": str(error)}
    if not torch.cuda.is_available():
        print("PyTorch is not measured: it sees no CUDA.")
        return {"none": "torch sees no CUDA"}
    mean = torch.tensor([0.485, 0.456, 0.406], device="cuda")[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], device="cuda")[:, None, None]
    rows: dict[str, Any] = {}
    for name, layout, half in (
        ("float32", torch.contiguous_format, False),
        ("float16, channels last", torch.channels_last, True),
    ):
        network = FastFlow(size).eval().cuda().to(memory_format=layout)

        @torch.inference_mode()
        def score(images: np.ndarray, network: Any = network, layout: Any = layout, half: bool = half) -> object:
            x = torch.from_numpy(images).pin_memory().cuda(non_blocking=True).permute(0, 3, 1, 2).float() / 255
            with torch.autocast("cuda", torch.float16, enabled=half):
                found = network(((x - mean) / std).contiguous(memory_format=layout))
            return [value.cpu() for value in (found if isinstance(found, tuple) else (found,))]

        images = random_images(batch, size, size)
        rows[name] = {"batch 1": timed(score, images[:1], seconds), f"batch {batch}": timed(score, images, seconds)}
        tell(f"torch {name}", rows[name], batch)
    return rows


def roofline(rows: dict[str, Any], *, size: int, megabytes: int) -> dict[str, Any]:
    """The card's own rates, and how near JAX's scoring of the large batch comes to them on the device."""
    import jax
    import jax.numpy as jnp

    found: dict[str, Any] = {}
    for name, dtype, precision in (
        ("float32", jnp.float32, "highest"),
        ("tensorfloat32", jnp.float32, "tensorfloat32"),
        ("bfloat16", jnp.bfloat16, None),
    ):
        a = jnp.ones((size, size), dtype)
        with jax.default_matmul_precision(precision):
            product = jax.jit(lambda a: a @ a)
            found[f"{name} TFLOP/s"] = round(2 * size**3 / shortest(lambda: product(a)) / 1e12, 2)  # noqa: B023
    x = jnp.zeros(megabytes * 2**18, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    found["copy GB/s"] = round(2 * x.nbytes / shortest(lambda: copy(x)) / 1e9, 1)
    for name, row in rows.items():
        rate = found["float32 TFLOP/s" if name == "highest" else "tensorfloat32 TFLOP/s"] * 1e3
        at_best = max(row["gflop"] / rate, row["gbyte"] / found["copy GB/s"])
        found[f"jax {name}: seconds at best"] = at_best
        found[f"jax {name}: share of the roofline"] = round(at_best / row["on the device"]["p50_ms"] * 1e3, 3)
    print("roofline", found)
    return found


def timed(score: Scorer, images: np.ndarray, seconds: float) -> dict[str, float]:
    """Milliseconds per call, and images per second."""
    times = []
    for call in range(10_000):
        started = time.perf_counter()
        score(images)
        taken = time.perf_counter() - started
        if call >= 3:  # compiled, warm
            times.append(taken)
            if sum(times) > seconds and len(times) >= 5:
                break
    return summary(times, len(images))


def on_device(score: Callable[[Any], Any], images: np.ndarray, seconds: float) -> dict[str, float]:
    """The same without the way to the device and back."""
    import jax

    there = jax.device_put(images)
    return timed(lambda _: jax.block_until_ready(score(there)), images, seconds)


def overlapped(engine: Any, images: np.ndarray, seconds: float) -> dict[str, float]:
    """All slots of an engine kept busy; times are from answer to answer."""
    tickets = [engine.submit(images) for _ in range(engine.slots)]
    times, last, end = [], time.perf_counter(), time.perf_counter() + seconds
    while last < end or len(times) < 5:
        engine.collect(tickets.pop(0))
        tickets.append(engine.submit(images))
        now = time.perf_counter()
        times.append(now - last)
        last = now
    for ticket in tickets:
        engine.collect(ticket)
    return summary(times[engine.slots :] or times, len(images))


def summary(times: list[float], images: int) -> dict[str, float]:
    return {
        "calls": len(times),
        "p50_ms": round(1e3 * float(np.percentile(times, 50)), 4),
        "p99_ms": round(1e3 * float(np.percentile(times, 99)), 4),
        "images_per_s": round(images * len(times) / sum(times), 1),
    }


def shortest(run: Callable[[], Any]) -> float:
    import jax

    times = []
    for _ in range(12):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return min(times)


def random_images(n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), np.uint8)


def tell(name: str, row: dict[str, Any], batch: int) -> None:
    one, many = row["batch 1"], row[f"batch {batch}"]
    print(
        f"{name:28} batch 1: p50 {one['p50_ms']:.2f} ms, p99 {one['p99_ms']:.2f} ms   "
        f"batch {batch}: {many['images_per_s']:.0f} images/s",
        flush=True,
    )


if __name__ == "__main__":
    typer.run(main)
