"""What optimizers are made of: Adam, a linear warm-up, then a constant rate, the plateau rule or a cosine."""

import optax

from train.config import TrainingConfig


def learning_rate(config: TrainingConfig) -> optax.ScalarOrSchedule:
    """The run's rate per step, before the plateau rule's factor."""
    total = config.epochs * config.steps_per_epoch
    if config.schedule == "cosine":
        warmup = min(config.warmup_steps, total - 1)
        return optax.schedules.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, total)
    if config.warmup_steps:
        return optax.schedules.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return config.learning_rate


def adam(config: TrainingConfig) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) with the run's learning rate."""
    return optax.adam(learning_rate(config))


def build_plateau(config: TrainingConfig) -> optax.GradientTransformationExtraArgs:
    """Keras' ReduceLROnPlateau on the validation metric, told once per epoch; its state's `scale` multiplies updates.

    Optax minimises, so it is told the negative metric. With another schedule it is never told anything and stays 1.
    """
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor, patience=config.plateau_patience, rtol=0.0, atol=config.plateau_min_delta
    )
