"""Defect-GAN against the same networks in PyTorch: training step, memory by batch size, images drawn per second.

    pip install "faultline[bench]"; python benchmarks/defect_gan_speed.py [--threads 2] [--cpu-time]

A step is what `fit-generator` takes by the config: some updates of the critic, one of the generator, the moving
average. PyTorch is measured as people write it (eager, default layout) and in channels last. Medians over interleaved
rounds, so that a busy machine disturbs both alike; with --cpu-time CPU seconds instead of seconds. Writes
benchmarks/results/defect_gan_speed.json.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from interleaved import interleaved

RESULTS = Path(__file__).parent / "results" / "defect_gan_speed.json"
CATEGORIES = ("a", "b", "c", "d", "e")
MEGABYTE = 1024 * 1024


def main(
    threads: Annotated[int, typer.Option(help="CPU threads for every side.")] = 2,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each; 0: memory only.")] = 7,
    config: Annotated[str, typer.Option(help="NAME of configs/defect_gan/.")] = "cpu",
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="CPU seconds, for a machine that others use too.")
    ] = False,
    memory_of: Annotated[str, typer.Option(help="Batch sizes whose memory is measured.")] = "1,4,16",
    memory_side: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure, print a table, write the JSON."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if memory_side:
        print(json.dumps(_memory(memory_side, config, int(memory_of))))
        return
    import torch

    torch.set_num_threads(threads)
    now = time.process_time if cpu_time else time.perf_counter
    resolved = _config(config)
    record: dict[str, Any] = json.loads(RESULTS.read_text()) if rounds == 0 else _times(resolved, config, rounds, now)
    record.setdefault("memory_mb", {})
    _write(record)
    for batch in filter(None, memory_of.split(",")):
        sides = {side: _measured(side, config, batch, threads) for side in ("torch", "ours")}
        record["memory_mb"][f"batch {batch}"] = sides
        print(f"memory of a step, batch {batch}: torch {sides['torch']} MB, ours {sides['ours']} MB")
        _write(record)


def _times(resolved: Any, config: str, rounds: int, now: Callable[[], float]) -> dict[str, Any]:
    """Prints a row for each kind of work as it comes."""
    import torch

    table: dict[str, dict[str, Callable[[], object]]] = {
        f"training step, batch {resolved.batch_size}": {
            "torch": _torch_step(resolved, channels_last=False),
            "torch channels last": _torch_step(resolved, channels_last=True),
            "ours": _our_step(resolved),
        }
    }
    for batch in (1, 8):
        table[f"drawing, batch {batch}"] = {
            "torch": _torch_drawing(resolved, batch, channels_last=False),
            "torch channels last": _torch_drawing(resolved, batch, channels_last=True),
            "ours": _our_drawing(resolved, batch),
        }
    record: dict[str, Any] = {
        "config": config,
        "threads": torch.get_num_threads(),
        "seconds": "cpu" if now is time.process_time else "wall",
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "torch": torch.__version__,
        "rows": {},
    }
    print(f"{'':28}{'torch':>12}{'channels last':>16}{'ours':>12}{'best torch/ours':>18}")
    for name, sides in table.items():
        times = interleaved(sides, rounds, now, warm_up=2)
        ratio = min(times["torch"], times["torch channels last"]) / times["ours"]
        record["rows"][name] = {**{side: round(value, 5) for side, value in times.items()}, "ratio": round(ratio, 3)}
        if name.startswith("drawing"):
            batch = int(name.split()[-1])
            record["rows"][name]["ours_images_per_s"] = round(batch / times["ours"], 1)
        print(
            f"{name:28}{_ms(times['torch']):>12}{_ms(times['torch channels last']):>16}{_ms(times['ours']):>12}"
            f"{ratio:>17.2f}x"
        )
    return record


def _write(record: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def _config(name: str, batch: int | None = None):
    from train.config import find_config, load_config
    from train.generators import find_generator

    settings = [f"categories={list(CATEGORIES)}", "exclusive=true", *([f"batch_size={batch}"] if batch else [])]
    return load_config(find_config("defect_gan", name), find_generator("defect_gan").schema, settings)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _pairs(config, count: int):
    import numpy as np

    from train.generators.defect_gan.players import Pairs

    rng, size = np.random.default_rng(0), config.image_size
    labels = np.eye(config.control_channels, dtype=np.uint8)[rng.integers(0, len(CATEGORIES), count)]
    images = rng.integers(0, 256, (2, count, size, size, 3), np.uint8)
    return Pairs(images[0], images[1], labels, np.full((count, size, size), 255, np.uint8))


def _our_training(config):
    import jax.numpy as jnp

    from train.epochs import initial_state, training_steps
    from train.generators import find_generator
    from train.generators.defect_gan.material import by_pair
    from train.inputs import TrainingInputs

    generator, count = find_generator("defect_gan"), config.batch_size * config.critic_steps
    resident = _pairs(config, count)
    resident = type(resident)(*map(jnp.asarray, resident))
    inputs = TrainingInputs(resident, by_pair, lambda start, stop: iter(()), lambda: iter(()))
    graph, state = initial_state(generator, config)
    number = jnp.arange(count, dtype=jnp.int32)
    batch = jnp.stack([number, number], axis=1)[None]
    return training_steps(generator, config, graph, inputs), state, batch, resident


def _our_step(config) -> Callable[[], object]:
    import jax

    steps, state, batch, resident = _our_training(config)

    def run() -> None:
        nonlocal state
        state, _ = steps(state, batch, resident)
        jax.block_until_ready(state.params)

    return run


def _torch_networks(config, channels_last: bool):
    import torch
    from torch_defect_gan import Critic, Generator

    torch.manual_seed(0)
    controls = config.control_channels
    generator = Generator(controls, config.filters, config.residual_blocks, config.spade_hidden)
    critic = Critic(controls, config.image_size, config.critic_filters, config.critic_layers)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return generator.to(memory_format=layout), critic.to(memory_format=layout), layout


def _torch_step(config, channels_last: bool) -> Callable[[], object]:
    import copy

    import torch
    from torch_defect_gan import compose, critic_loss, generator_loss

    generator, critic, layout = _torch_networks(config, channels_last)
    average = copy.deepcopy(generator)
    adams = [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (critic, generator)]
    n, size, k = config.batch_size, config.image_size, config.control_channels
    pairs = _pairs(config, n)
    normal, defective = (
        (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=layout)
        for x in (pairs.normal, pairs.defective)
    )
    labels = torch.from_numpy(pairs.labels).float()
    plain = torch.eye(k)[-1].expand(n, k)
    images, asked = torch.cat([normal, defective]), torch.cat([labels, plain])
    there = asked[:, :, None, None].expand(-1, -1, size, size).contiguous(memory_format=layout)
    back = torch.cat([there[n:], there[:n]])
    real = torch.cat([defective, normal])

    def run() -> None:
        for _ in range(config.critic_steps):
            with torch.no_grad():
                drawn = compose(images, *generator(images, there))
            share = torch.rand(2 * n, 1, 1, 1)
            loss = critic_loss(critic, real, drawn, asked, share, exclusive=True)
            adams[0].zero_grad()
            loss.backward()
            adams[0].step()
        loss = generator_loss(generator, critic, images, asked, there, back, (None, None), exclusive=True)
        adams[1].zero_grad()
        loss.backward()
        adams[1].step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), generator.parameters(), strict=True):
                old.lerp_(new, 1 - config.average_decay)

    return run


def _our_drawing(config, batch: int) -> Callable[[], object]:
    from functools import partial

    import jax
    import jax.numpy as jnp
    from flax import nnx

    from train.generators.defect_gan import DEFECT_GAN
    from train.generators.defect_gan.model import Generator

    weights = Generator(config, rngs=nnx.Rngs(0))
    size, k = config.image_size, config.control_channels
    images = jnp.asarray(_pairs(config, batch).normal)
    control = jnp.zeros((batch, size, size, k)).at[..., 0].set(1)
    keys = jax.random.split(jax.random.key(0), batch)

    @partial(jax.jit)
    def draw(weights, images, control, keys):
        return DEFECT_GAN.paint(weights, images, control, DEFECT_GAN.draw_noise(keys, config), jnp.ones(()), config)

    return lambda: jax.block_until_ready(draw(weights, images, control, keys))


def _torch_drawing(config, batch: int, channels_last: bool) -> Callable[[], object]:
    import torch
    from torch_defect_gan import compose

    generator, _, layout = _torch_networks(config, channels_last)
    size, k = config.image_size, config.control_channels
    images = torch.from_numpy(_pairs(config, batch).normal).permute(0, 3, 1, 2)
    control = torch.zeros(batch, k, size, size).contiguous(memory_format=layout)
    control[:, 0] = 1

    def run() -> object:
        with torch.inference_mode():
            x = (images.float() / 127.5 - 1).contiguous(memory_format=layout)
            drawn = compose(x, *generator(x, control))
            return ((drawn + 1) * 127.5).round().to(torch.uint8)

    return run


def _measured(side: str, config: str, batch: str, threads: int) -> float:
    """In a process of its own."""
    command = [sys.executable, __file__, "--memory-side", side, "--memory-of", batch, "--config", config]
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _memory(side: str, name: str, batch: int) -> float:
    """MB that a step takes: ours as XLA plans it (parameters, images, temporaries), PyTorch's as the process grows."""
    config = _config(name, batch)
    if side == "ours":
        steps, state, batches, resident = _our_training(config)
        plan = steps.lower(state, batches, resident).compile().memory_analysis()  # type: ignore[attr-defined]
        return round((plan.argument_size_in_bytes + plan.temp_size_in_bytes) / MEGABYTE)
    run = _torch_step(config, channels_last=False)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    before = _kilobytes("VmRSS")
    run()
    run()
    return round((_kilobytes("VmHWM") - before) / 1024)


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    typer.run(main)
