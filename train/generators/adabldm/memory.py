"""The memory that a training of AdaBLDM takes, by arithmetic: nothing is drawn, compiled or tried.

Weights, gradients and AdamW's two moments are float32 numbers; with bfloat16 a step has rounded copies of the weights.
Maps that the gradient needs are counted block by block; a rematerialised block's only at its entrance, and once those
inside the largest. The counts per block are those of JAX's own record of its gradient (a test compares); XLA joins
some of them.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.frozen import frozen_count
from train.generators.adabldm.networks import parameter_counts
from train.generators.adabldm.unet import UNetSpec
from train.memory import MemoryEstimate

NUMBER = 4  # bytes of float32
LOWERS_MEMORY = (
    "Set a smaller batch_size, more micro_batches, rematerialise=true, compute=bfloat16, average_decay=0, a smaller "
    "image_size or a smaller size"
)
ENCODER_MAPS = 4  # of its full size that the autoencoder's encoder works on at once


class Block(NamedTuple):
    """Bytes per image that the gradient of a block needs."""

    inside: int
    at_entrance: int
    again: bool  # computed again rather than kept

    @property
    def kept(self) -> int:
        return self.at_entrance if self.again else self.inside


def estimate(config: AdaBLDMConfig) -> MemoryEstimate:
    """Of both phases' states, and of the step that takes more."""
    counts = parameter_counts(config)
    trained = sum(counts.values())
    moving = [counts["denoiser"] + counts.get("text", 0)] * bool(config.domain_epochs)
    moving += [counts["trimap_encoder"]] * (config.epochs > config.domain_epochs)
    copies = 1 if config.micro_batches == 1 else 2  # of gradients: a part's, and the sum of those before
    parts = {
        "weights": NUMBER * (trained + frozen_count(config)),
        "AdamW's moments": 2 * NUMBER * sum(moving),
        "gradients": copies * NUMBER * max(moving),
        "maps": map_bytes(config),
    }
    if config.average_decay:
        parts["averages"] = NUMBER * trained
    if config.compute == "bfloat16":
        parts["rounded weights"] = NUMBER // 2 * trained
    return MemoryEstimate(parts)


def map_bytes(config: AdaBLDMConfig) -> int:
    """Of the maps of one part of a batch, in the phase that needs more, and of the encoding of a batch of pairs."""
    wide, images = width_of_numbers(config), config.batch_size // config.micro_batches
    blocks = blocks_of(config)
    kept = sum(block.kept for block in blocks) + max((block.inside for block in blocks if block.again), default=0)
    if config.epochs == config.domain_epochs:
        return images * kept
    return images * (kept + _embedding(config, wide)) + config.batch_size * _encoding(config)


def width_of_numbers(config: AdaBLDMConfig) -> int:
    """Bytes of a number in a map."""
    return NUMBER if config.compute == "float32" else NUMBER // 2


def blocks_of(config: AdaBLDMConfig) -> tuple[Block, ...]:
    """Of the denoiser; in the second phase the trimap encoder's way down takes the place of the denoiser's."""
    size = config.networks
    arguments = size.unet, size.latent**2, size.text.tokens, width_of_numbers(config)
    return (*_down(*arguments), *_up(*arguments))


def _down(unet: UNetSpec, cells: int, tokens: int, wide: int) -> Iterator[Block]:
    channels, last = unet.width, len(unet.multipliers) - 1
    yield _convolution(cells, unet.latent_channels, wide)
    for level, (width, transformers) in enumerate(zip(unet.level_widths, unet.transformers, strict=True)):
        for _ in range(unet.residual_blocks):
            yield residual(cells, channels, width, wide, unet.rematerialise)
            if transformers:
                yield transformer(cells, width, unet.heads, tokens, wide, unet.rematerialise)
            channels = width
        if level < last:
            yield _convolution(cells, width, wide)
            cells //= 4
    yield residual(cells, channels, channels, wide, False)
    yield transformer(cells, channels, unet.heads, tokens, wide, False)
    yield residual(cells, channels, channels, wide, False)


def _up(unet: UNetSpec, cells: int, tokens: int, wide: int) -> Iterator[Block]:
    skips, last = list(unet.skip_widths), len(unet.multipliers) - 1
    cells //= 4**last
    channels = unet.level_widths[-1]
    for level in range(last, -1, -1):
        width = unet.level_widths[level]
        if level < last:
            cells *= 4
            yield _convolution(cells, channels, wide)
        for _ in range(unet.residual_blocks + 1):
            yield residual(cells, channels + skips.pop(), width, wide, unet.rematerialise)
            if unet.transformers[level]:
                yield transformer(cells, width, unet.heads, tokens, wide, unet.rematerialise)
            channels = width
    yield residual(cells, channels, 0, wide, False)  # the last norm and convolution


def residual(cells: int, channels: int, features: int, wide: int, again: bool) -> Block:
    """Three maps of each norm in float32; of norm, SiLU and convolution five and four in the type computed in."""
    inside = cells * (channels * (5 * wide + 3 * NUMBER) + features * (4 * wide + 3 * NUMBER))
    return Block(inside, cells * channels * wide, again)


def transformer(cells: int, width: int, heads: int, tokens: int, wide: int, again: bool) -> Block:
    """Norms in float32; queries, keys, values, the gated maps of eight times the width; and every cell's attention."""
    inside = cells * (width * (35 * wide + 12 * NUMBER) + heads * (cells + tokens) * (wide + NUMBER))
    return Block(inside, cells * width * wide, again)


def _convolution(cells: int, channels: int, wide: int) -> Block:
    return Block(cells * channels * wide, 0, False)


def _embedding(config: AdaBLDMConfig, wide: int) -> int:
    """Of the trimap embedding, per image: before and after each SiLU."""
    widths, cells = config.networks.trimap.widths, config.image_size**2
    found = 3 * cells + 2 * cells * widths[0]
    for channels, features in pairwise(widths):
        found += 2 * cells * channels
        cells //= 4
        found += 2 * cells * features
    return wide * found


def _encoding(config: AdaBLDMConfig) -> int:
    """Of one image."""
    spec = config.networks.autoencoder
    return ENCODER_MAPS * NUMBER * config.image_size**2 * spec.width
