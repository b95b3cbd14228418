"""The classifier as the shared loop trains it: model, losses, accuracy."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from train.backbones.backbone import IMAGENET
from train.blocks.pixels import to_unit
from train.classifier.config import ClassifierConfig
from train.classifier.model import Classifier, reversed_gradient
from train.optimizer import learning_rate
from train.players import one_network
from train.system import PerImage, System

Inputs = dict[str, Array]  # image: uint8 [n, s, s, 3]; labels: 0 or 1 [n, k]; synthetic: 0 or 1 [n]


def build(config: ClassifierConfig, rngs: nnx.Rngs) -> Classifier:
    return Classifier(
        config.network,
        config.width,
        config.outputs,
        small_stem=config.stem == "small",
        source=config.source_weight > 0,
        form="matmul" if jax.default_backend() == "cpu" else "plain",
        rngs=rngs,
    )


def optimizer(config: ClassifierConfig) -> optax.GradientTransformation:
    """SGD with momentum; weight decay as L2 in the gradient, as PyTorch's."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.sgd(learning_rate(config), config.momentum)
    )


def normalised(images: Array) -> Float[Array, "n h w 3"]:
    mean, std = (jnp.array(values, jnp.float32) for values in (IMAGENET.mean, IMAGENET.std))
    return (to_unit(images, 3) - mean) / std


def logits(model: Classifier, images: Array) -> Float[Array, "n k"]:
    return model.classes(model(normalised(images)))


def classification_loss(
    found: Float[Array, "n k"], labels: Float[Array, "n k"], config: ClassifierConfig
) -> Float[Array, " n"]:
    """Cross-entropy where categories exclude each other, else the mean of one yes-or-no question per category."""
    if config.exclusive:
        of_image: Array = optax.softmax_cross_entropy(found, labels)
        return of_image
    return jnp.mean(optax.sigmoid_binary_cross_entropy(found, labels), axis=-1)


def is_right(found: Float[Array, "n k"], labels: Float[Array, "n k"], config: ClassifierConfig) -> Float[Array, " n"]:
    """1 where the class is right, or with several categories an image where all answers are."""
    if config.exclusive:
        return (jnp.argmax(found, axis=-1) == jnp.argmax(labels, axis=-1)).astype(jnp.float32)
    return jnp.all((found > 0) == (labels > 0.5), axis=-1).astype(jnp.float32)


def flipped(images: Array, key: PRNGKeyArray) -> Array:
    """Each image left to right and upside down, or not."""
    for axis, axis_key in zip((1, 2), jax.random.split(key), strict=True):
        chosen = jax.random.bernoulli(axis_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(chosen, jnp.flip(images, axis), images)
    return images


def loss(
    model: Classifier, inputs: Inputs, key: PRNGKeyArray, config: ClassifierConfig
) -> tuple[PerImage, dict[str, PerImage]]:
    features = model(normalised(flipped(inputs["image"], key)))
    found = model.classes(features)
    total, metrics = classification_loss(found, inputs["labels"], config), {}
    if model.source is not None:
        told = model.source(reversed_gradient(features, config.source_weight))[:, 0]
        source = optax.sigmoid_binary_cross_entropy(told, inputs["synthetic"])
        total, metrics = total + source, {"source_loss": source}
    return total, metrics


def validate(model: Classifier, inputs: Inputs, key: PRNGKeyArray, config: ClassifierConfig) -> dict[str, PerImage]:
    found = logits(model, inputs["image"])
    return {
        "accuracy": is_right(found, inputs["labels"], config),
        "validation_loss": classification_loss(found, inputs["labels"], config),
    }


def _phases(config: Any) -> Any:
    return one_network(loss, optimizer, config.epochs)


CLASSIFIER = System(
    name="classifier",
    schema=ClassifierConfig,
    monitor="accuracy",
    monitor_unit="of 1",
    build=build,
    phases=_phases,
    validate=validate,
)
