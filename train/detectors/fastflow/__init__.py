"""FastFlow as one detector: backbone, flow, loss and scores. README.md maps the paper to the functions."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from train.backbones.pretrained import (
    WeightsError,
    features,
    find_weights,
    load_pretrained,
    random_weights,
    restore_backbone,
    save_backbone,
)
from train.backbones.registry import find_backbone
from train.config import THRESHOLD_SETTINGS, ConfigError
from train.detectors.detector import Detector, FrozenPart, Images, Masking
from train.detectors.fastflow.config import FastFlowConfig
from train.detectors.fastflow.folded import fold_flows
from train.detectors.fastflow.loss import negative_log_likelihood
from train.detectors.fastflow.model import Cells, FastFlow, Features, Latent
from train.detectors.fastflow.normalisation import moments
from train.detectors.fastflow.score import raw_scores
from train.detectors.scores import RawScores
from train.mask import Mask
from train.optimizer import learning_rate
from train.players import one_network

PerImage = Float[Array, " n"]


class Inputs(NamedTuple):
    """What the frozen backbone makes of images, and under a mask the cells that count."""

    features: Features
    judged: Cells | None = None


class Scorer(NamedTuple):
    """All that scoring needs: two trees of arrays."""

    backbone: nnx.Module
    flow: FastFlow


def load_backbone(config: FastFlowConfig) -> nnx.Module:
    """With published weights; `mini` has none and is drawn from the run's seed. ConfigError where they don't serve."""
    backbone = find_backbone(config.backbone)
    if not backbone.pretrained:
        return random_weights(backbone, config.input_size, config.seed)
    try:
        return load_pretrained(backbone, find_weights(backbone, config.backbone_weights), config.input_size)
    except WeightsError as error:
        raise ConfigError(str(error)) from error


def restore(path: Path, config: FastFlowConfig) -> nnx.Module:
    return restore_backbone(find_backbone(config.backbone), path, config.input_size)


def encode(module: nnx.Module, images: UInt8[Array, "n h w c"], config: FastFlowConfig) -> Inputs:
    """RGB, with a fourth channel where there is a mask."""
    found = features(module, images[..., :3], find_backbone(config.backbone))
    return Inputs(found, judged_cells(images[..., 3] > 0, config) if images.shape[-1] == 4 else None)


def judged_cells(mask: Bool[Array, "n h w"], config: FastFlowConfig) -> Cells:
    """Of each scale the cells with at least one judged pixel."""
    n, h, w = mask.shape
    strides = [tap.stride for tap in find_backbone(config.backbone).taps]
    return tuple(mask.reshape(n, h // s, s, w // s, s).any(axis=(2, 4)) for s in strides)


def build(config: FastFlowConfig, rngs: nnx.Rngs) -> FastFlow:
    fast = config.form == "fast" or (config.form == "auto" and jax.default_backend() == "cpu")
    taps = find_backbone(config.backbone).taps
    shapes = [(config.input_size // tap.stride, config.input_size // tap.stride, tap.channels) for tap in taps]
    return FastFlow(shapes, config, form="fast" if fast else "plain", rngs=rngs)


def measure(model: FastFlow, batches: Callable[[], Iterable[Inputs]]) -> None:
    """Statistics of the training features, where the normalisation rests on them."""
    for scale, normalise in enumerate(model.normalise):
        if normalise.is_measured:
            normalise.measure(*moments(_cells(batch, scale) for batch in batches()))


def _cells(inputs: Inputs, scale: int) -> np.ndarray:
    """Features of one scale, of judged cells only."""
    x = np.asarray(inputs.features[scale])
    return x if inputs.judged is None else x[np.asarray(inputs.judged[scale])]


def loss(
    model: FastFlow, inputs: Inputs, key: PRNGKeyArray, config: FastFlowConfig
) -> tuple[PerImage, dict[str, PerImage]]:
    """Negative log-likelihood, summed over scales (not divided by dimension, as published)."""
    normalised = model.normalised(*inputs)
    if config.feature_noise:
        normalised = tuple(
            x + config.feature_noise * jax.random.normal(jax.random.fold_in(key, scale), x.shape, x.dtype)
            for scale, x in enumerate(normalised)
        )
    return _likelihood(model.latents(normalised), inputs.judged), {}


def validate(model: FastFlow, inputs: Inputs, key: PRNGKeyArray, config: FastFlowConfig) -> dict[str, PerImage]:
    """Log-likelihood of held-out images in nats per dimension, without its constant; no noise."""
    total = _likelihood(model(*inputs), inputs.judged)
    return {"log_likelihood": -total / _dimensions(inputs)}


def _likelihood(latents: Sequence[Latent], judged: Cells | None) -> PerImage:
    """Negative and in nats, summed over scales."""
    cells = judged or (None,) * len(latents)
    per_scale = [negative_log_likelihood(latent, only) for latent, only in zip(latents, cells, strict=True)]
    return sum(per_scale[1:], per_scale[0])


def _dimensions(inputs: Inputs) -> int | PerImage:
    """How many numbers of an image's features count."""
    if inputs.judged is None:
        return sum(x[0].size for x in inputs.features)
    per_scale = [x.shape[-1] * only.sum(axis=(1, 2)) for x, only in zip(inputs.features, inputs.judged, strict=True)]
    return jnp.asarray(sum(per_scale), jnp.float32)


def optimizer(config: FastFlowConfig) -> optax.GradientTransformation:
    """Adam with L2 in the gradient, as torch's `weight_decay` (sheet), or decoupled."""
    decay = optax.add_decayed_weights(config.weight_decay)
    adam, rate = optax.scale_by_adam(), optax.scale_by_learning_rate(learning_rate(config))
    if config.weight_decay_form == "gradient":
        return optax.chain(decay, adam, rate)
    return optax.chain(adam, decay, rate)


def micro_batches(config: FastFlowConfig) -> int:
    """Into how many parts a batch is cut: the maps of 8 images fit into a CPU's cache, those of 32 do not."""
    size = config.micro_batch or (8 if jax.default_backend() == "cpu" else config.batch_size)
    return max(
        k
        for k in range(1, config.batch_size + 1)
        if config.batch_size % k == 0 and config.batch_size // k >= min(size, config.batch_size)
    )


def fold(model: FastFlow, backbone: nnx.Module, config: FastFlowConfig) -> Scorer:
    """The flow in float32, ActNorm folded, and its permutations plain indexing: as products they serve the gradient."""
    plain = config.model_copy(update={"form": "plain", "compute": "float32"})
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(plain, nnx.Rngs(0))))
    return Scorer(backbone, fold_flows(nnx.merge(graph, nnx.state(model))))


def score(weights: Scorer, images: Images, config: FastFlowConfig, judged: Mask | None = None) -> RawScores:
    """Tiles of all images are one batch. Pixels that are not judged score 0, and tiles without any are left out."""
    backbone, flow = weights
    tiling = config.tiling if judged is None else config.tiling.over(judged)
    # uint8 is converted before it is cut: TensorRT allows nothing else on it.
    tiles = images if tiling.is_whole else tiling.cut(images.astype(jnp.float32))
    found = features(backbone, tiles, find_backbone(config.backbone))
    cells = None
    if judged is not None:  # the same in every image
        of_one = judged_cells(jnp.asarray(np.stack([tiling.part(judged, tile) for tile in range(len(tiling))])), config)
        cells = tuple(jnp.broadcast_to(x, (images.shape[0], *x.shape)).reshape(-1, *x.shape[1:]) for x in of_one)
    return raw_scores(
        flow(found, cells),
        config.input_size,
        log_det_weight=config.log_det_weight,
        top_share=config.top_share,
        tiling=tiling,
        judged=judged,
    )


def score_definition(config: FastFlowConfig) -> str:
    p = "exp(-1/2 mean over channels of z^2)"
    if config.log_det_weight:
        energy = f"-1/2 mean of z^2 + {config.log_det_weight:g} mean log-determinant, both over channels"
        p = f"q / (1 + q), q = exp({energy})"
    image = f"the mean of the {config.top_share:.2%} highest pixels" if config.top_share else "its highest pixel"
    whole = f"tiles of {config.tile} px, blended where they overlap" if config.tile else "the image's size"
    return (
        f"FastFlow on {config.backbone}: raw map = 1 - {p}, bilinear to {whole}, averaged over "
        f"{len(find_backbone(config.backbone).taps)} scales; raw score = {image}."
    )


def scoring_mode(config: Any) -> str:
    return "top_share" if config.top_share else "max"


FASTFLOW = Detector(
    name="fastflow",
    schema=FastFlowConfig,
    monitor="log_likelihood",
    monitor_unit="nats per dimension",
    build=build,
    phases=lambda config: one_network(loss, optimizer, config.epochs),
    validate=validate,
    fold=fold,
    score=score,
    score_definition=score_definition,
    scoring_mode=scoring_mode,
    scoring_settings=THRESHOLD_SETTINGS | {"log_det_weight", "top_share", "checkpoint"},
    frozen=FrozenPart("backbone", load_backbone, save_backbone, restore, encode),
    masking=Masking(
        file=lambda config: config.mask,
        cell=lambda config: max(tap.stride for tap in find_backbone(config.backbone).taps),
        score=score,
    ),
    tiling=lambda config: config.tiling,
    measure=measure,
    micro_batches=micro_batches,
    average_decay=lambda config: config.average_decay,
    checkpoint=lambda config: config.checkpoint,
)
