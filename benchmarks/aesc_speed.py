"""AESc against the same network in PyTorch: training step, residual and uncertainty scoring, as ratios of one run.

    pip install "faultline[bench]"; python benchmarks/aesc_speed.py [--threads 2]

PyTorch is measured as people write it (eager, default layout) and in its best layout (channels last); ours as `fit`
trains it (JAX) and as the line scores it (the exported graph in ONNX Runtime). Medians over interleaved rounds, so that
a busy machine disturbs both alike. Writes benchmarks/results/aesc_speed.json.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from interleaved import interleaved

RESULTS = Path(__file__).parent / "results" / "aesc_speed.json"
SIZE = 256


def main(
    threads: Annotated[int, typer.Option(help="CPU threads for every side.")] = 2,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each.")] = 7,
) -> None:
    """Measure, print a table, write the JSON."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)
    table = {
        "training step, batch 16": {
            "torch": _torch_step(images, channels_last=False),
            "torch channels last": _torch_step(images, channels_last=True),
            "ours": _our_step(images),
        },
    }
    for mode, batches in (("residual", (1, 16)), ("uncertainty", (1,))):
        for batch in batches:
            engine = _our_engine(mode, threads)
            table[f"{mode}, batch {batch}"] = {
                "torch": _torch_scoring(images[:batch], mode, channels_last=False),
                "torch channels last": _torch_scoring(images[:batch], mode, channels_last=True),
                "ours": partial(engine, images[:batch]),
            }
    record = {"threads": threads, "torch": torch.__version__, "rows": {}}
    print(f"{'':28}{'torch':>12}{'channels last':>16}{'ours':>12}{'torch/ours':>12}")
    for name, sides in table.items():
        times = interleaved(sides, rounds)
        ratio = times["torch"] / times["ours"]
        record["rows"][name] = {**{side: round(value, 5) for side, value in times.items()}, "ratio": round(ratio, 3)}
        print(
            f"{name:28}{_ms(times['torch']):>12}{_ms(times['torch channels last']):>16}{_ms(times['ours']):>12}"
            f"{ratio:>11.2f}x"
        )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _network(channels_last: bool):
    """The sheet's table in PyTorch, as people write it."""
    import torch
    from torch import nn

    def block(i: int, o: int, stride: int) -> nn.Sequential:
        pad = nn.ZeroPad2d((1, 2, 1, 2)) if stride == 2 else nn.ZeroPad2d(2)
        return nn.Sequential(pad, nn.Conv2d(i, o, 5, stride), nn.BatchNorm2d(o, 1e-3, 0.01), nn.LeakyReLU(0.3))

    class AESc(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [16 << level for level in range(6)]
            self.encoder = nn.ModuleList(block(i, o, 2) for i, o in zip([3, *widths], widths, strict=False))
            self.decoder = nn.ModuleList(block(widths[j + 1], widths[j], 1) for j in range(4, -1, -1))
            self.head, self.up = nn.Conv2d(16, 3, 5, padding=2), nn.Upsample(scale_factor=2)

        def forward(self, x, rates=(0.0,) * 6):
            levels = []
            for level, rate in zip(self.encoder, rates, strict=True):
                x = nn.functional.dropout(level(x), rate) if rate else level(x)
                levels.append(x)
            for level, skip, rate in zip(self.decoder, levels[-2::-1], rates[-2::-1], strict=True):
                x = level(self.up(x))
                x = (nn.functional.dropout(x, rate) if rate else x) + skip
            return torch.sigmoid(self.head(self.up(x)))

    network = AESc()
    return network.to(memory_format=torch.channels_last) if channels_last else network


def _torch_images(images, channels_last: bool):
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _torch_step(images, channels_last: bool) -> Callable[[], object]:
    import torch

    network = _network(channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    x = _torch_images(images, channels_last)

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(x), x)
        loss.backward()
        optimizer.step()

    return step


def _torch_scoring(images, mode: str, channels_last: bool) -> Callable[[], object]:
    import torch

    network = _network(channels_last).eval()
    rates = (0, 0, 0.1, 0.2, 0.3, 0.4)

    @torch.inference_mode()
    def residual():
        x = _torch_images(images, channels_last)
        anomaly_map = (255 * (x - network(x)).abs()).mean(1)
        return anomaly_map.square().mean((1, 2)).sqrt()

    @torch.inference_mode()
    def uncertainty():
        x = _torch_images(images, channels_last)
        y = network(x.repeat(30, 1, 1, 1), rates).reshape(30, *x.shape)
        anomaly_map = (255 * y).var(0, correction=0).mean(1)
        return anomaly_map.square().mean((1, 2)).sqrt()

    return residual if mode == "residual" else uncertainty


def _our_step(images) -> Callable[[], object]:
    """One update as `fit` makes it, stains drawn inside."""
    import jax
    import jax.numpy as jnp

    from train.detectors import find_detector
    from train.detectors.aesc.config import AEScConfig
    from train.epochs import initial_state, training_steps

    config, detector = AEScConfig(), find_detector("aesc")
    graph, state = initial_state(detector, config)
    train_steps = training_steps(detector, config, graph)
    holder = [state]
    batches, resident = jnp.arange(len(images))[None], jnp.asarray(images)

    def step() -> None:
        holder[0], metrics = train_steps(holder[0], batches, resident)
        jax.block_until_ready(metrics)

    return step


def _our_engine(mode: str, threads: int) -> Callable[[object], object]:
    """The exported graph of an untrained network in ONNX Runtime, as the agent runs it."""
    import jax
    import numpy as np
    from flax import nnx

    from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
    from export.detector import OUTPUTS
    from export.lower import InputSpec, lower
    from train.detectors import find_detector
    from train.detectors.aesc.config import AEScConfig

    detector = find_detector("aesc")
    config = AEScConfig(scoring=mode)
    network = detector.build(config, nnx.Rngs(0))
    network.eval()
    weights = jax.tree.map(jax.numpy.asarray, detector.fold(network, None, config))

    def trace(images):
        raw = detector.score(weights, images, config)
        return raw.image_score / 1.0, raw.anomaly_map / 1.0, raw.image_score

    model = lower(trace, {"image": InputSpec(("batch", SIZE, SIZE, 3), np.uint8)}, OUTPUTS, name="aesc")
    return OnnxRuntimeEngine(model.SerializeToString(), threads=threads).run


if __name__ == "__main__":
    typer.run(main)
