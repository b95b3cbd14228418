"""A generator that was never trained but can do all that synthesis and export ask of one."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from train.generators.defect_gan import DEFECT_GAN
from train.generators.defect_gan.config import DefectGANConfig
from train.generators.run import TrainedGenerator

TINY = {
    "image_size": 16,
    "filters": 4,
    "residual_blocks": 2,
    "spade_hidden": 4,
    "critic_filters": 4,
    "critic_layers": 2,
    "categories": ("burr", "pore"),
    "exclusive": True,
}


def make_generator(folder: Path, **settings: object) -> TrainedGenerator:
    """Weights by NumPy, for which nothing is compiled. The noise has strength, and masks are about a half."""
    config = DefectGANConfig.model_validate(TINY | settings)
    model = nnx.eval_shape(lambda: DEFECT_GAN.build(config, nnx.Rngs(0)))
    graph, state = nnx.split(model)
    random = np.random.default_rng(0)

    def drawn(path: Any, like: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            value = random.normal(size=like.shape) / math.sqrt(math.prod(like.shape[:-1]))
        else:
            value = np.full(like.shape, 1.0 if "scale" in name else 0.4 if "strength" in name else 0.0)
        return jax.numpy.asarray(value.astype(like.dtype))

    model = nnx.merge(graph, jax.tree_util.tree_map_with_path(drawn, state))
    model.eval()
    weights = DEFECT_GAN.fold(model, None, config)
    return TrainedGenerator(folder, DEFECT_GAN, config, 7, weights, {"product": "washer", "data_digest": "0" * 64})
