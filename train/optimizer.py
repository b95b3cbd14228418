"""The optimizer of a run: Adam, a linear warm-up, then the plateau rule or a cosine."""

import optax

from train.config import RunConfig


def build_optimizer(config: RunConfig) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) with the run's learning rate per step, before the plateau rule's factor."""
    total = config.epochs * config.steps_per_epoch
    if config.schedule == "cosine":
        warmup = min(config.warmup_steps, total - 1)
        rate = optax.schedules.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, total)
    elif config.warmup_steps:
        rate = optax.schedules.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    else:
        rate = config.learning_rate
    return optax.adam(rate)


def build_plateau(config: RunConfig) -> optax.GradientTransformationExtraArgs:
    """Keras' ReduceLROnPlateau on the validation metric, told once per epoch; its state's `scale` multiplies updates.

    Optax minimises, so it is told the negative metric. With schedule: cosine it is never told anything and stays 1.
    """
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor, patience=config.plateau_patience, rtol=0.0, atol=config.plateau_min_delta
    )
