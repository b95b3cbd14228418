"""What AnoGAN adds to the report: what its generator draws, its losses, and how held-out good images are found."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from train.blocks.pixels import to_signed
from train.detectors.anogan.config import AnoGANConfig
from train.detectors.anogan.frozen import generate
from train.detectors.anogan.invert import Found, invert
from train.detectors.anogan.score import Weights, form_of, inversion
from train.detectors.anogan.watch import sentences
from train.pictures import as_address, grid, to_bytes
from train.section import Section

SHOWN = 36  # drawn images
SEARCHED = 8  # held-out images


def sections(run: Any) -> Sequence[Section]:
    """Of a TrainedRun."""
    from train.run import read_held_out

    config: AnoGANConfig = run.config
    tiles = np.asarray(config.tiling.cut(jnp.asarray(read_held_out(run)[0])))
    tiles = tiles[np.linspace(0, len(tiles) - 1, min(len(tiles), SHOWN)).astype(int)]
    drawn = draw(run.weights, config)
    training = training_section(run.figures, ("discriminator_loss", "generator_loss"))
    found = search(run.weights, tiles[:: max(len(tiles) // SEARCHED, 1)][:SEARCHED], config)
    return (generator_section(to_bytes(drawn), tiles), training, found)


def draw(weights: Weights, config: AnoGANConfig) -> Array:
    z = jax.random.normal(jax.random.key(config.seed), (SHOWN, config.latent))
    drawn: Array = jax.jit(lambda networks: generate(networks, z, config.layout, form_of(config, SHOWN)))(
        weights.networks
    )
    return drawn


def generator_section(drawn: UInt8[np.ndarray, "n h w 3"], good: UInt8[np.ndarray, "m h w 3"]) -> Section:
    return Section(
        "What the generator draws",
        ("If drawn parts look all alike, or not like good ones, scores mean little: train longer, or on more images.",),
        pictures=((as_address(grid(drawn)), "drawn"), (as_address(grid(good)), "good, held out")),
    )


def training_section(figures: Sequence[dict[str, float]], losses: Sequence[str]) -> Section:
    from train.report.figures import curves_figure

    curves = {name.replace("_", " "): [epoch.get(name, np.nan) for epoch in figures] for name in losses}
    notes = [f"Epoch {epoch + 1}: {text}" for epoch, seen in enumerate(figures) for text in sentences(seen)]
    kept = notes if len(notes) <= 4 else [*notes[:2], f"(... {len(notes) - 4} more)", *notes[-2:]]
    watched = {name: [epoch.get(name, np.nan) for epoch in figures] for name in ("spread", "closeness", "psnr")}
    watched = {name: values for name, values in watched.items() if np.isfinite(values).any()}
    return Section(
        "Training",
        tuple(kept) or ("No collapse and no divergence was seen.",),
        drawings=(
            curves_figure(curves, "epoch", "loss"),
            *(curves_figure({name: values}, "epoch", name) for name, values in watched.items()),
        ),
    )


def search(weights: Weights, images: UInt8[np.ndarray, "n h w 3"], config: AnoGANConfig) -> Section:
    """The search of some images, drawn."""
    from train.report.figures import curves_figure

    def found_of(weights: Weights) -> Found:
        return invert(
            weights.networks,
            x,
            weights.starts,
            inversion(config),
            config.layout,
            form_of(config, len(x)),
            keep_curve=True,
        )

    x = to_signed(jnp.asarray(images), config.channels)
    found = jax.jit(found_of)(weights)
    difference = jnp.abs(x - found.drawn).mean(axis=-1, keepdims=True) - 1  # black: none
    rows = np.concatenate([to_bytes(x), to_bytes(found.drawn), to_bytes(difference)])
    curves = {f"image {number + 1}": list(map(float, curve)) for number, curve in enumerate(np.asarray(found.curve).T)}
    first, last = float(found.curve[0].mean()), float(found.loss.mean())
    return Section(
        "The search for z",
        (
            f"L(z) of held-out good images falls from {first:.3g} to {last:.3g} in {config.inversion_steps} steps. "
            "Curves that still fall at the end want more inversion_steps or a larger inversion_rate; curves that end "
            "far apart want restarts.",
        ),
        drawings=(curves_figure(curves, "step", "L(z)", legend=False),),
        pictures=((as_address(grid(rows, columns=len(images))), "image, G(z), difference"),),
    )
