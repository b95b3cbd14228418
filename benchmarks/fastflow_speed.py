"""FastFlow against the same network in PyTorch: training step and scoring, as ratios of one run.

    pip install "faultline[bench]"; python benchmarks/fastflow_speed.py [--threads 2]

ResNet18 at 256 px, 8 steps of 3x3, LayerNorm with its affine, the highest pixel as score: what the public ports are.
PyTorch trains as its users run it, backbone in every step; ours as `fit` runs it, on features computed once (what that
costs is printed). Scoring: PyTorch eager, PyTorch's own export in ONNX Runtime, and our graph in ONNX Runtime as the
agent runs it. Medians over rounds in turn, a pause before each side: idle threads of the one before would still spin.
Last, our step beside what the machine gives at most: floating-point operations and bytes as XLA counts them, over the
rates that a large product of matrices and a large copy reach here. "bfloat16" is our step with `compute: bfloat16`.
Set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_TOP_PAD_=200000000 for all sides alike. Writes
benchmarks/results/fastflow_speed.json.
"""

import io
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

RESULTS = Path(__file__).parent / "results" / "fastflow_speed.json"
SIZE, BATCH = 256, 32
PAUSE_S = 1.0


def main(
    threads: Annotated[int, typer.Option(help="CPU threads for every side.")] = 2,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each.")] = 5,
    only: Annotated[str, typer.Option(help="Only rows that hold this text.")] = "",
) -> None:
    """Measure, print a table, write the JSON."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    rows: dict[str, Callable[[], dict[str, Callable[[], object]]]] = {
        f"training step, batch {BATCH}": lambda: {
            "torch": _torch_step(images),
            "ours": _our_step(images),
            "ours in bfloat16": _our_step(images, compute="bfloat16"),
        },
    }
    for batch in (1, 8):
        rows[f"scoring, batch {batch}"] = lambda some=images[:batch]: _scoring(some, threads)
    record = {"threads": threads, "torch": torch.__version__, "rows": {}}
    for name, sides in rows.items():
        if only in name:
            times = _in_turns(sides(), rounds, calls=10 if "scoring" in name else 1)
            ratios = {side: round(value / times["ours"], 3) for side, value in times.items() if side != "ours"}
            record["rows"][name] = {"seconds": {k: round(v, 5) for k, v in times.items()}, "times ours": ratios}
            print(f"{name:24}", "   ".join(f"{side} {1000 * value:.1f} ms" for side, value in times.items()), ratios)
    if "training" in only or not only:
        record["ceiling"] = _ceiling(images, record["rows"][f"training step, batch {BATCH}"]["seconds"]["ours"])
        print("ceiling                 ", record["ceiling"])
    if not only:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def _in_turns(sides: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, float]:
    """Median seconds of a call; the first round warms up, and so does the first call of every turn of several."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, run in sides.items():
            time.sleep(PAUSE_S)
            for call in range(calls):
                started = time.perf_counter()
                run()
                if turn and (call or calls == 1):
                    times[side].append(time.perf_counter() - started)
    return {side: statistics.median(values) for side, values in times.items()}


def _torch_images(images):
    import torch

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - mean[:, None, None]) / std[:, None, None]


def _torch_step(images) -> Callable[[], object]:
    import torch
    from torch_fastflow import FastFlow

    network = FastFlow(SIZE).train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-3, weight_decay=1e-5)
    x = _torch_images(images)

    def step() -> None:
        optimizer.zero_grad()
        network(x).backward()
        optimizer.step()

    return step


def _our_config(**settings):
    from train.detectors.fastflow.config import FastFlowConfig

    common = {"normalisation": "layer_norm_affine", "image_size": SIZE, "batch_size": BATCH, "steps_per_epoch": 1}
    return FastFlowConfig(**common, **settings)


def _our_step(images, **settings) -> Callable[[], object]:
    """One update as `fit` makes it."""
    import jax

    train_steps, state, batches, resident = _our_program(images, **settings)
    holder = [state]

    def step() -> None:
        holder[0], metrics = train_steps(holder[0], batches, resident)
        jax.block_until_ready(metrics)

    return step


def _our_program(images, **settings):
    """The compiled update, and its arguments."""
    import jax
    import jax.numpy as jnp

    from train.backbones import find_backbone
    from train.backbones.pretrained import random_weights
    from train.detectors import find_detector
    from train.epochs import initial_state, training_steps
    from train.inputs import encode_all

    config, detector = _our_config(**settings), find_detector("fastflow")
    started = time.perf_counter()
    features = encode_all(detector, config, random_weights(find_backbone("resnet18"), SIZE, 0), images)
    print(f"features, once: {1000 * (time.perf_counter() - started) / len(images):.0f} ms per image with compilation")
    graph, state = initial_state(detector, config)
    resident = jax.tree.map(jnp.asarray, features)
    return training_steps(detector, config, graph), state, jnp.arange(len(images))[None], resident


def _ceiling(images, seconds: float) -> dict[str, float]:
    """How near our training step is to the machine's own limits."""
    import jax
    import jax.numpy as jnp

    train_steps, *arguments = _our_program(images)
    cost = train_steps.lower(*arguments).compile().cost_analysis()
    a = jax.random.normal(jax.random.key(0), (2048, 2048))
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda x: x + 1)
    flops_per_s = 2 * 2048**3 / _shortest(lambda: product(a).block_until_ready())
    x = jnp.zeros(64 * 2**20, jnp.float32)
    bytes_per_s = 2 * x.nbytes / _shortest(lambda: copy(x).block_until_ready())
    return {
        "machine GFLOP/s": round(flops_per_s / 1e9, 1),
        "machine GB/s": round(bytes_per_s / 1e9, 1),
        "step GFLOP": round(cost["flops"] / 1e9, 1),
        "step GB": round(cost["bytes accessed"] / 1e9, 1),
        "step GFLOP/s": round(cost["flops"] / seconds / 1e9, 1),
        "share of the machine's arithmetic": round(cost["flops"] / flops_per_s / seconds, 3),
        "share of the machine's memory bandwidth": round(cost["bytes accessed"] / bytes_per_s / seconds, 3),
    }


def _shortest(run: Callable[[], object]) -> float:
    times = []
    for _ in range(10):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def _scoring(images, threads: int) -> dict[str, Callable[[], object]]:
    import torch
    from torch_fastflow import FastFlow

    network = FastFlow(SIZE).eval()
    x = _torch_images(images)

    @torch.inference_mode()
    def eager():
        return network(x)

    return {
        "torch eager": eager,
        "torch exported": _torch_export(network, x, threads),
        "ours": _our_engine(images, threads),
    }


def _torch_export(network, x, threads: int) -> Callable[[], object]:
    """PyTorch's exporter (the TorchScript one, which needs no further package) and a session of ONNX Runtime."""
    import onnxruntime
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (x,), file, dynamo=False, opset_version=17, input_names=["x"], dynamic_axes={"x": {0: "n"}}
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    values = {"x": x.numpy()}
    return lambda: session.run(None, values)


def _our_engine(images, threads: int) -> Callable[[], object]:
    """The exported graph in ONNX Runtime, uint8 in, as the agent runs it."""
    from edge_agent.engines.onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(our_model(), threads=threads)
    return lambda: engine.run(images)


def our_model() -> bytes:
    """The exported graph of an untrained network, as a bundle has it."""
    import jax
    import numpy as np
    from flax import nnx

    from export.detector import OUTPUTS
    from export.lower import InputSpec, lower
    from train.backbones import find_backbone
    from train.backbones.pretrained import random_weights
    from train.detectors import find_detector

    config, detector = _our_config(), find_detector("fastflow")
    network = detector.build(config, nnx.Rngs(0))
    network.eval()
    backbone = random_weights(find_backbone("resnet18"), SIZE, 0)
    weights = jax.tree.map(jax.numpy.asarray, detector.fold(network, backbone, config))

    def trace(images):
        raw = detector.score(weights, images, config)
        return raw.image_score / 1.0, raw.anomaly_map / 1.0, raw.image_score

    model = lower(trace, {"image": InputSpec(("batch", SIZE, SIZE, 3), np.uint8)}, OUTPUTS, name="fastflow")
    return model.SerializeToString()


if __name__ == "__main__":
    typer.run(main)
