"""An AdaBLDM of size tiny that was never trained, but whose networks all count; and orders for it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from train.config import load_config
from train.generators.adabldm import ADABLDM, build, fold
from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.frozen import Frozen
from train.generators.adabldm.imports import empty_autoencoder
from train.generators.run import TrainedGenerator
from train.synthesis.sources import Source
from train.synthesis.task import Task

SIZE = 32
CATEGORIES = ("line", "spot")


def few_masks():
    """Two of each category: lines of 12 pixels, spots of 16."""
    line, spot = np.zeros((2, 2, SIZE, SIZE), np.uint8)
    line[0, 5, 4:16] = line[1, 8:20, 9] = 1
    spot[:, 20:24, 20:24] = 1
    return {"line": line, "spot": spot}


def make_run(folder, predictor=(None, None), **settings) -> TrainedGenerator:
    """Shaken, so that nothing is zero as in a fresh network. `predictor`: backbone and discriminant."""
    overrides = {"categories": list(CATEGORIES), "object": "part", "stages": "1/1/1", "adaptation_steps": 2}
    config = load_config(
        Path("configs/adabldm/tiny.yaml"),
        AdaBLDMConfig,
        [f"{name}={value}" for name, value in (overrides | settings).items()],
    )
    autoencoder = empty_autoencoder(config.networks, rngs=nnx.Rngs(0))
    kept = Frozen(autoencoder, None, *predictor, few_masks(), None, False)
    weights = fold(build(config, nnx.Rngs(0)), kept, config)
    random = np.random.default_rng(1)

    def shaken(x):
        x = np.asarray(x)
        return jnp.asarray(x + 0.05 * random.standard_normal(x.shape).astype(np.float32))

    networks = ("denoiser", "trimap_encoder", "text")
    weights = weights._replace(**{name: jax.tree.map(shaken, getattr(weights, name)) for name in networks})
    weights = jax.tree.map(jnp.asarray, weights)
    return TrainedGenerator(Path(folder), ADABLDM, config, 7, weights, {"product": "part", "data_digest": "0" * 64})


def images(count, seed=0):
    """Even stripes with a little noise."""
    random = np.random.default_rng(seed)
    stripes = 128 + 40 * np.sin(np.arange(SIZE) / 3)[:, None, None]
    return np.clip(stripes + random.normal(0, 5, (count, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def task(index, category=None, *, seed=0, strength=1.0, path="a.png"):
    """By default the categories in turn; "" restores."""
    category = CATEGORIES[index % 2] if category is None else category
    source = Source(Path(path), Path(path).name, "train", "0" * 64)
    return Task(index, seed, (category,) if category else (), strength, source)
