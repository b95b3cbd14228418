"""FastFlow as one detector: backbone, flow, loss and scores. README.md maps the paper to the functions."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

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
from train.detectors.detector import Detector, FrozenPart, Images
from train.detectors.fastflow.config import FastFlowConfig
from train.detectors.fastflow.loss import negative_log_likelihood
from train.detectors.fastflow.model import FastFlow, Features
from train.detectors.fastflow.normalisation import moments
from train.detectors.fastflow.score import raw_scores
from train.detectors.scores import RawScores
from train.optimizer import learning_rate

PerImage = Float[Array, " n"]


class Scorer(NamedTuple):
    """All that scoring needs: two trees of arrays."""

    backbone: nnx.Module
    flow: FastFlow


def load_backbone(config: FastFlowConfig) -> nnx.Module:
    """With published weights; `mini` has none and is drawn from the run's seed. ConfigError where they don't serve."""
    backbone = find_backbone(config.backbone)
    if not backbone.pretrained:
        return random_weights(backbone, config.image_size, config.seed)
    try:
        return load_pretrained(backbone, find_weights(backbone, config.backbone_weights), config.image_size)
    except WeightsError as error:
        raise ConfigError(str(error)) from error


def restore(path: Path, config: FastFlowConfig) -> nnx.Module:
    return restore_backbone(find_backbone(config.backbone), path, config.image_size)


def encode(module: nnx.Module, images: Images, config: FastFlowConfig) -> Features:
    return features(module, images, find_backbone(config.backbone))


def build(config: FastFlowConfig, rngs: nnx.Rngs) -> FastFlow:
    fast = config.form == "fast" or (config.form == "auto" and jax.default_backend() == "cpu")
    taps = find_backbone(config.backbone).taps
    shapes = [(config.image_size // tap.stride, config.image_size // tap.stride, tap.channels) for tap in taps]
    return FastFlow(shapes, config, form="fast" if fast else "plain", rngs=rngs)


def measure(model: FastFlow, batches: Callable[[], Iterable[Features]]) -> None:
    """Statistics of the training features, where the normalisation rests on them."""
    for scale, normalise in enumerate(model.normalise):
        if normalise.is_measured:
            normalise.measure(*moments(batch[scale] for batch in batches()))


def loss(
    model: FastFlow, inputs: Features, key: PRNGKeyArray, config: FastFlowConfig
) -> tuple[PerImage, dict[str, PerImage]]:
    """Negative log-likelihood, summed over scales (not divided by dimension, as published)."""
    normalised = model.normalised(inputs)
    if config.feature_noise:
        normalised = tuple(
            x + config.feature_noise * jax.random.normal(jax.random.fold_in(key, scale), x.shape, x.dtype)
            for scale, x in enumerate(normalised)
        )
    per_scale = [negative_log_likelihood(latent) for latent in model.latents(normalised)]
    return sum(per_scale[1:], per_scale[0]), {}


def validate(model: FastFlow, inputs: Features, key: PRNGKeyArray, config: FastFlowConfig) -> dict[str, PerImage]:
    """Log-likelihood of held-out images in nats per dimension, without its constant; no noise."""
    dimensions = sum(x[0].size for x in inputs)
    total = sum(negative_log_likelihood(latent) for latent in model(inputs))
    return {"log_likelihood": -jnp.asarray(total) / dimensions}


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
    """The flow with its permutations as plain indexing: as products they only serve the gradient."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(config.model_copy(update={"form": "plain"}), nnx.Rngs(0))))
    return Scorer(backbone, nnx.merge(graph, nnx.state(model)))


def score(weights: Scorer, images: Images, config: FastFlowConfig) -> RawScores:
    latents = weights.flow(encode(weights.backbone, images, config))
    return raw_scores(latents, config.image_size, log_det_weight=config.log_det_weight, top_share=config.top_share)


def score_definition(config: FastFlowConfig) -> str:
    p = "exp(-1/2 mean over channels of z^2)"
    if config.log_det_weight:
        energy = f"-1/2 mean of z^2 + {config.log_det_weight:g} mean log-determinant, both over channels"
        p = f"q / (1 + q), q = exp({energy})"
    image = f"the mean of the {config.top_share:.2%} highest pixels" if config.top_share else "its highest pixel"
    return (
        f"FastFlow on {config.backbone}: raw map = 1 - {p}, bilinear to the image's size, averaged over "
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
    loss=loss,
    validate=validate,
    fold=fold,
    score=score,
    score_definition=score_definition,
    scoring_mode=scoring_mode,
    scoring_settings=THRESHOLD_SETTINGS | {"log_det_weight", "top_share", "checkpoint"},
    optimizer=optimizer,
    frozen=FrozenPart("backbone", load_backbone, save_backbone, restore, encode),
    measure=measure,
    micro_batches=micro_batches,
    average_decay=lambda config: config.average_decay,
    checkpoint=lambda config: config.checkpoint,
)
