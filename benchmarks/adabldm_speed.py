"""AdaBLDM against modules of the same sizes in PyTorch: sampler step, adaptation's iteration, training steps.

    pip install "faultline[bench]" diffusers; python benchmarks/adabldm_speed.py [--threads 2] [--cpu-time]

PyTorch's side is diffusers' UNet2DConditionModel and ControlNetModel with the same numbers, and TAEF2's decoder written
plainly (torch_adabldm.py), eager, in the default layout and in channels last. A sampler step is the trimap encoder once
and the denoiser in both branches of the guidance, then DDIM; an iteration of the adaptation one gradient of the decoder
and AdamW, for one image; a training step forward, backward and AdamW of the networks alone, latents given. Random
weights. Medians over interleaved rounds, so that a busy machine disturbs both alike; with --cpu-time CPU seconds
instead of seconds. Images per minute: 50 steps of the sampler, 5 of them with decoder and encoder, and 200 iterations,
one image after the other. Writes benchmarks/results/adabldm_speed.json.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from interleaved import interleaved

RESULTS = Path(__file__).parent / "results" / "adabldm_speed.json"
SIZE = "small"
STEPS, IMAGE_EDITS, ITERATIONS = 50, 5, 200
GUIDANCE, RATE, W_BACKGROUND = 9.0, 1e-4, 100.0
SIDES = ("torch", "torch channels last", "ours")
Work = Callable[[], object]


def main(
    threads: Annotated[int, typer.Option(help="CPU threads for every side.")] = 2,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each.")] = 7,
    only: Annotated[str, typer.Option(help="Only rows whose name holds this; nothing is written then.")] = "",
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="CPU seconds, for a machine that others use too.")
    ] = False,
) -> None:
    """Measure, print a table, write the JSON."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    from train.provenance import commit, versions

    torch.set_num_threads(threads)
    now = time.process_time if cpu_time else time.perf_counter
    record: dict[str, Any] = {
        "size": SIZE,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "seconds": "cpu" if cpu_time else "wall",
        "rounds": rounds,
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "torch": torch.__version__,
        "versions": versions(),
        "measured_at": commit(),
        "rows": {},
    }
    print(f"{'':36}" + "".join(f"{side:>22}" for side in SIDES) + f"{'best torch/ours':>18}")
    for name, make in rows(SIZE).items():
        if only not in name:
            continue
        times = interleaved({side: make(side) for side in SIDES}, rounds, now, warm_up=2)
        ratio = min(times["torch"], times["torch channels last"]) / times["ours"]
        record["rows"][name] = {**{side: round(times[side], 5) for side in SIDES}, "ratio": round(ratio, 3)}
        print(f"{name:36}" + "".join(f"{_ms(times[side]):>22}" for side in SIDES) + f"{ratio:>17.2f}x", flush=True)
    if only:
        return
    record["images_per_minute"] = {side: round(60 / seconds_per_image(record["rows"], side), 3) for side in SIDES}
    print(f"images per minute: {record['images_per_minute']}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def rows(size: str) -> dict[str, Callable[[str], Work]]:
    """What is measured -> (side -> the work, ready to run)."""
    from functools import partial

    return {
        "sampler step, batch 1": partial(sampler_step, size, 1),
        "sampler step, batch 4": partial(sampler_step, size, 4),
        "decoder and encoder, batch 1": partial(there_and_back, size),
        "adaptation, one iteration": partial(adaptation, size),
        "training the denoiser, batch 4": partial(training, size, "domain"),
        "training the trimap encoder, batch 4": partial(training, size, "trimap"),
    }


def seconds_per_image(measured: dict[str, dict[str, float]], side: str) -> float:
    step, edit, iteration = (
        measured[name][side]
        for name in ("sampler step, batch 1", "decoder and encoder, batch 1", "adaptation, one iteration")
    )
    return STEPS * step + IMAGE_EDITS * edit + ITERATIONS * iteration


def sampler_step(size: str, n: int, side: str) -> Work:
    return _our_step(size, n) if side == "ours" else _torch_step(size, n, side)


def there_and_back(size: str, side: str) -> Work:
    """Decoder, then encoder, as an edit of the image takes them."""
    return _our_trip(size) if side == "ours" else _torch_trip(size, side)


def adaptation(size: str, side: str) -> Work:
    return _our_iteration(size) if side == "ours" else _torch_iteration(size, side)


def training(size: str, phase: str, side: str) -> Work:
    return _our_training(size, phase) if side == "ours" else _torch_training(size, phase, side)


def _arrays(size: str, n: int) -> dict[str, Any]:
    """float32, channels last."""
    import numpy as np

    from train.generators.adabldm.sizes import SIZES

    spec, random = SIZES[size], np.random.default_rng(0)
    side, cells, channels = spec.image, spec.latent, spec.unet.latent_channels
    drawn = {
        "image": (n, side, side, 3),
        "latent": (n, cells, cells, channels),
        "noise": (n, cells, cells, channels),
        "prompt": (n, spec.text.tokens, spec.text.width),
        "empty": (n, spec.text.tokens, spec.text.width),
    }
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in drawn.items()}
    trimap = np.full((n, side, side), 0.5, np.float32)
    trimap[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    return {**arrays, "trimap": trimap, "step": random.integers(0, 1000, n).astype(np.int32)}


def _model(size: str) -> Any:
    from flax import nnx

    from train.generators.adabldm.model import AdaBLDM
    from train.generators.adabldm.sizes import SIZES

    return AdaBLDM(SIZES[size], labels=4, rngs=nnx.Rngs(0))


def _our_step(size: str, n: int) -> Work:
    """As `sample` calls it, in turn."""
    from functools import partial

    import jax
    import jax.numpy as jnp

    from train.generators.adabldm.sampler import Asked, Sampling, Way, held_to, take_step, way_of
    from train.generators.adabldm.stages import Edits

    model, given = _model(size), {name: jnp.asarray(value) for name, value in _arrays(size, n).items()}
    asked = Asked(given["trimap"], given["prompt"], given["empty"])
    held = jax.jit(held_to)(model.autoencoder, given["image"], given["trimap"])
    at = Way(*(jnp.asarray(values[3]) for values in way_of(Sampling())))
    step = jax.jit(partial(take_step, edits=Edits(False, False), guidance=GUIDANCE))
    keys = jax.random.split(jax.random.key(0), n)
    return lambda: jax.block_until_ready(step(model, given["latent"], at, asked, held, keys))


def _our_trip(size: str) -> Work:
    import jax
    import jax.numpy as jnp

    autoencoder, latent = _model(size).autoencoder, jnp.asarray(_arrays(size, 1)["latent"])

    @jax.jit
    def trip(autoencoder, latent):
        return autoencoder.encode(autoencoder.decode(latent))

    return lambda: jax.block_until_ready(trip(autoencoder, latent))


def _our_iteration(size: str) -> Work:
    """As `InTurn` calls it."""
    from functools import partial

    import jax
    import jax.numpy as jnp

    from train.generators.adabldm.adaptation import Adaptation, Progress, decoder_of, iterate

    settings, given = Adaptation(learning_rate=RATE, w_background=W_BACKGROUND), _arrays(size, 1)
    decode, params = decoder_of(_model(size).autoencoder)
    latent, normal = (jnp.asarray(given[name][0]) for name in ("latent", "image"))
    mask = jnp.asarray(given["trimap"][0] == 1, jnp.float32)
    x_fg = jax.jit(decode)(params, latent[None])[0]
    step = jax.jit(partial(iterate, decode, settings=settings), donate_argnames="progress")
    progress = Progress(jax.tree.map(jnp.copy, params), jax.jit(settings.optimizer.init)(params))

    def run() -> None:
        nonlocal progress
        progress, terms = step(progress=progress, x_fg=x_fg, normal=normal, mask=mask, latent=latent)
        jax.block_until_ready((progress, terms))

    return run


def _our_training(size: str, phase: str) -> Work:
    """The step of `fit-generator`, its inputs given."""
    import jax
    import jax.numpy as jnp

    from train.epochs import initial_state, training_steps
    from train.generators import find_generator
    from train.generators.adabldm.players import Captioned, Inputs, Pasted
    from train.inputs import TrainingInputs

    system, given = find_generator("adabldm"), _arrays(size, 4)
    config = system.schema.model_validate(
        {"size": size, "image_size": given["image"].shape[1], "categories": ("a", "b", "c"), "object": "part",
         "text": "labels", "batch_size": 4, "epochs": 2, "domain_epochs": 1, "steps_per_epoch": 100}
    )  # fmt: skip
    words = jnp.asarray([[1], [2], [3], [0]], jnp.int32)
    latent, trimap = jnp.asarray(given["latent"]), jnp.asarray(given["trimap"])
    resident = Inputs(Captioned(latent, words), Pasted(latent, words, trimap, jnp.zeros_like(words)))
    inputs = TrainingInputs(resident, lambda index, all_of: all_of, lambda start, stop: iter(()), lambda: iter(()))
    graph, state = initial_state(system, config)
    steps = training_steps(system, config, graph, inputs, system.phases(config)[("domain", "trimap").index(phase)])
    batch = jnp.arange(4, dtype=jnp.int32)[None]

    def run() -> None:
        nonlocal state
        state, _ = steps(state, batch, resident)
        jax.block_until_ready(state.params)

    return run


def _torch_given(size: str, n: int, side: str) -> tuple[dict[str, Any], Any]:
    """Channels first, in the layout of that side; and the layout."""
    import torch

    layout = torch.channels_last if "last" in side else torch.contiguous_format
    given = {name: torch.from_numpy(value) for name, value in _arrays(size, n).items()}
    for name in ("image", "latent", "noise"):
        given[name] = given[name].permute(0, 3, 1, 2).contiguous(memory_format=layout)
    given["trimap"] = given["trimap"][:, None].repeat(1, 3, 1, 1).contiguous(memory_format=layout)
    given["step"] = given["step"].long()
    return given, layout


def _torch_networks(size: str, layout: Any) -> tuple[Any, Any]:
    import torch
    from torch_adabldm import controlnet, unet

    from train.generators.adabldm.sizes import SIZES

    torch.manual_seed(0)
    spec = SIZES[size]
    networks = unet(spec.unet), controlnet(spec.unet, spec.trimap)
    return tuple(network.eval().to(memory_format=layout) for network in networks)


def _told(networks: Any, latent: Any, step: Any, prompt: Any, empty: Any, trimap: Any, copies: int) -> Any:
    unet, tri = networks
    down, middle = tri(latent, step, encoder_hidden_states=empty, controlnet_cond=trimap, return_dict=False)

    def again(x: Any) -> Any:
        return x.repeat(copies, *[1] * (x.ndim - 1))

    return unet(
        again(latent), again(step), encoder_hidden_states=prompt, return_dict=False,
        down_block_additional_residuals=[again(x) for x in down], mid_block_additional_residual=again(middle),
    )[0]  # fmt: skip


def _torch_step(size: str, n: int, side: str) -> Work:
    import torch

    from train.generators.adabldm.sampler import Sampling, way_of

    given, layout = _torch_given(size, n, side)
    networks, way = _torch_networks(size, layout), way_of(Sampling())
    before, after = float(way.alpha_bar[3]), float(way.after[3])
    step = torch.full((n,), int(way.step[3]))
    both = torch.cat([given["empty"], given["prompt"]])

    def run() -> object:
        with torch.inference_mode():
            noise = _told(networks, given["latent"], step, both, given["empty"], given["trimap"], 2)
            noise = noise[:n] + GUIDANCE * (noise[n:] - noise[:n])
            clean = (given["latent"] - (1 - before) ** 0.5 * noise) / before**0.5
            return after**0.5 * clean + (1 - after) ** 0.5 * noise

    return run


def _torch_trip(size: str, side: str) -> Work:
    import torch
    from torch_adabldm import tiny_decoder, tiny_encoder

    from train.generators.adabldm.sizes import SIZES

    given, layout = _torch_given(size, 1, side)
    spec = SIZES[size].autoencoder
    trip = torch.nn.Sequential(tiny_decoder(spec), tiny_encoder(spec)).to(memory_format=layout)

    def run() -> object:
        with torch.inference_mode():
            return trip(given["latent"])

    return run


def _torch_iteration(size: str, side: str) -> Work:
    import torch
    from torch_adabldm import tiny_decoder

    from train.generators.adabldm.sizes import SIZES

    given, layout = _torch_given(size, 1, side)
    decoder = tiny_decoder(SIZES[size].autoencoder).to(memory_format=layout)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=RATE)
    inside = (given["trimap"][:, :1] == 1).float()
    with torch.no_grad():
        x_fg = decoder(given["latent"])

    def run() -> None:
        image = decoder(given["latent"])
        loss = torch.mean((inside * (x_fg - image)) ** 2)
        loss = loss + W_BACKGROUND * torch.mean(((1 - inside) * (given["image"] - image)) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def _torch_training(size: str, phase: str, side: str) -> Work:
    import torch

    given, layout = _torch_given(size, 4, side)
    unet, tri = _torch_networks(size, layout)
    trained = unet if phase == "domain" else tri
    (tri if phase == "domain" else unet).requires_grad_(False)
    trained.train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-5)

    def run() -> None:
        if phase == "domain":
            told = unet(given["latent"], given["step"], encoder_hidden_states=given["prompt"], return_dict=False)[0]
        else:
            told = _told(
                (unet, tri), given["latent"], given["step"], given["prompt"], given["empty"], given["trimap"], 1
            )
        loss = torch.mean((told - given["noise"]) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


if __name__ == "__main__":
    typer.run(main)
