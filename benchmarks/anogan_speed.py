"""The search for z, 500 steps: ours against PyTorch as the seed wrote it and as it is batched, in images per second.

    pip install "faultline[bench]"; python benchmarks/anogan_speed.py [--threads 2] [--steps 20] [--memory]

"seed": one image, networks in training mode, gradients of their weights and D(x) computed again at every step, as
jmjeon94/AnoGAN-pytorch does. "batched": frozen networks in inference mode, D(x) once, all images together. A step costs
the same whichever it is, so a few are timed and scaled to 500; medians over interleaved rounds, so that a busy machine
disturbs all alike. On one that is very busy, `--threads 1 --cpu-time` counts what each side takes of the processor.
Networks at full width, untrained. --memory adds the largest resident size by batch, each in a process of its own.
Writes benchmarks/results/anogan_speed.json.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from interleaved import interleaved

RESULTS = Path(__file__).parent / "results" / "anogan_speed.json"
STEPS = 500  # of a search
BATCHES = {"seed": (1, 16, 64, 256), "dcgan": (1, 16, 64)}
MEMORY_BATCHES = (1, 16, 64, 256)
Side = Callable[[], object]


def main(
    threads: Annotated[int, typer.Option(help="CPU threads for every side.")] = 2,
    steps: Annotated[int, typer.Option(help="Steps that are timed.")] = 20,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each.")] = 5,
    only: Annotated[str, typer.Option(help="seed (28 px) or dcgan (64 px); both by default.")] = "",
    cpu_time: Annotated[bool, typer.Option("--cpu-time", help="Count CPU seconds: for busy machines.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Measure memory too.")] = False,
    peak_of: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure, print a table, write the JSON."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if peak_of:
        network, batch = peak_of.split(":")
        ours(network, int(batch), 2)()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    import torch

    torch.set_num_threads(threads)
    record: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for network, batches in BATCHES.items():
        if only not in ("", network):
            continue
        sides: dict[str, tuple[int, Side]] = {"torch seed, batch 1": (1, torch_search(network, 1, steps, seed=True))}
        for batch in batches:
            sides[f"torch batched, batch {batch}"] = (batch, torch_search(network, batch, steps, seed=False))
            sides[f"ours, batch {batch}"] = (batch, ours(network, batch, steps))
        clock = time.process_time if cpu_time else time.perf_counter
        seconds = interleaved({name: run for name, (_, run) in sides.items()}, rounds, clock)
        rates = {name: sides[name][0] / (seconds[name] / steps * STEPS) for name in sides}
        best = {who: max(rate for name, rate in rates.items() if name.startswith(who)) for who in ("ours", "torch b")}
        rows = {name: float(f"{rate:.4g}") for name, rate in rates.items()}
        record[network] = {
            "clock": "CPU seconds of the process" if cpu_time else "wall",
            "threads": threads,
            "torch": torch.__version__,
            "images_per_second": rows,
            "best_against_seed": round(best["ours"] / rates["torch seed, batch 1"], 2),
            "best_against_best_batched": round(best["ours"] / best["torch b"], 2),
            "against_batched": {
                str(b): round(rates[f"ours, batch {b}"] / rates[f"torch batched, batch {b}"], 2) for b in batches
            },
        }
        for name, rate in rows.items():
            print(f"{network:6} {name:28} {rate:9.3f} images/s", flush=True)
        print(json.dumps({key: value for key, value in record[network].items() if "against" in key}), flush=True)
    if memory:
        record["peak_resident_mb"] = {str(batch): peak_memory("seed", batch) for batch in MEMORY_BATCHES}
        print(record["peak_resident_mb"])
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def peak_memory(network: str, batch: int) -> int:
    command = [sys.executable, __file__, "--peak-of", f"{network}:{batch}"]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def size_of(network: str) -> tuple[int, int]:
    """Side and channels of the image."""
    return (28, 1) if network == "seed" else (64, 3)


def ours(network: str, batch: int, steps: int) -> Side:
    """The search as `evaluate` makes it."""
    import jax
    from flax import nnx

    from train.detectors.anogan import ANOGAN, AnoGANConfig
    from train.detectors.anogan.invert import invert
    from train.detectors.anogan.score import form_of, inversion

    side, channels = size_of(network)
    color = "grey" if channels == 1 else "rgb"
    config = AnoGANConfig(network=network, image_size=side, color=color, inversion_steps=steps)  # type: ignore[arg-type]
    model = ANOGAN.build(config, nnx.Rngs(0))
    weights = ANOGAN.fold(model, None, config)
    x = np.random.default_rng(0).uniform(-1, 1, (batch, side, side, channels)).astype(np.float32)
    search = jax.jit(partial(invert, settings=inversion(config), layout=config.layout, form=form_of(config, batch)))
    return lambda: jax.block_until_ready(search(weights.networks, x, weights.starts))


def torch_networks(network: str) -> Any:
    """Generator, and discriminator up to its features, as people write them."""
    from torch import nn

    def up(c: int, o: int, k: int, s: int, p: int, extra: int = 0) -> list[Any]:
        return [nn.ConvTranspose2d(c, o, k, s, p, extra, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    def down(c: int, o: int, k: int, p: int, norm: bool = True) -> list[Any]:
        return [nn.Conv2d(c, o, k, 2, p, bias=False), *([nn.BatchNorm2d(o)] if norm else []), nn.LeakyReLU(0.2)]

    if network == "seed":
        last = [nn.ConvTranspose2d(128, 1, 4, 2, 1, bias=False), nn.Tanh()]
        generator = [*up(128, 512, 4, 1, 0), *up(512, 256, 3, 2, 1), *up(256, 128, 4, 2, 1), *last]
        features = [*down(1, 64, 4, 1, norm=False), *down(64, 128, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    else:
        last = [nn.ConvTranspose2d(64, 3, 5, 2, 2, 1, bias=False), nn.Tanh()]
        ups = [layer for c in (512, 256, 128) for layer in up(c, c // 2, 5, 2, 2, 1)]
        generator = [*up(128, 512, 4, 1, 0), *ups, *last]
        downs = [layer for c in (64, 128, 256) for layer in down(c, 2 * c, 5, 2)]
        features = [*down(3, 64, 5, 2, norm=False), *downs, nn.Flatten()]
    return nn.Sequential(*generator), nn.Sequential(*features)


def torch_search(network: str, batch: int, steps: int, *, seed: bool) -> Side:
    import torch

    generator, features = torch_networks(network)
    if not seed:
        generator.eval().requires_grad_(False)
        features.eval().requires_grad_(False)
    side, channels = size_of(network)
    x = torch.rand(batch, channels, side, side) * 2 - 1

    def run() -> None:
        z = torch.randn(batch, 128, 1, 1, requires_grad=True)
        optimizer = torch.optim.Adam([z], lr=0.02)
        of_x = None if seed else features(x)
        for _ in range(steps):
            optimizer.zero_grad()
            drawn = generator(z)
            if seed:
                residual = torch.nn.functional.mse_loss(drawn, x)
                loss = 0.9 * residual + 0.1 * torch.nn.functional.mse_loss(features(drawn), features(x))
            else:
                residual = (x - drawn).abs().mean((1, 2, 3))
                loss = (0.9 * residual + 0.1 * (of_x - features(drawn)).abs().mean(1)).sum()
            loss.backward()
            optimizer.step()

    return run


if __name__ == "__main__":
    typer.run(main)
