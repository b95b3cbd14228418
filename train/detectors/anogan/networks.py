"""AnoGAN's networks and one step of its search as functions to be exported.

A server that runs them as engines feeds the search's three arrays back until `number` has reached the run's steps.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Float

from train.blocks.strided import Form
from train.detectors.anogan.config import AnoGANConfig
from train.detectors.anogan.frozen import discriminate, generate
from train.detectors.anogan.invert import Search, step
from train.detectors.anogan.model import Images, Judged, Latents
from train.detectors.anogan.score import Weights, inversion
from train.networks import Array as Shaped
from train.networks import Network


def networks(run: Any) -> Sequence[Network]:
    """Of a TrainedRun: generator, discriminator, inversion_step."""
    config: AnoGANConfig = run.config
    weights: Weights = run.weights
    layout, side = config.layout, config.input_size
    form: Form = "plain"  # engines have convolutions of their own

    def generator(z: Latents) -> Images:
        return generate(weights.networks, z, layout, form)

    def discriminator(image: Images) -> Judged:
        return discriminate(weights.networks, image, layout, form)

    def inversion_step(
        image: Images,
        feature: Float[Array, "n f"],
        z: Latents,
        mean: Latents,
        square: Latents,
        number: Float[Array, ""],
    ) -> tuple[Latents, Latents, Latents, Float[Array, " n"]]:
        of_image = Judged(feature[:, 0], feature)  # the search reads no logit
        search, loss = step(
            weights.networks, image, of_image, Search(z, mean, square), number, inversion(config), layout, form
        )
        return *search, loss

    image, z = Shaped(("batch", side, side, config.channels)), Shaped(("batch", config.latent))
    feature = Shaped(("batch", weights.networks.head.kernel.shape[0]))
    return (
        Network("generator", generator, {"z": z}, ("image",)),
        Network("discriminator", discriminator, {"image": image}, ("logit", "feature")),
        Network(
            "inversion_step",
            inversion_step,
            {"image": image, "feature": feature, "z": z, "mean": z, "square": z, "number": Shaped(())},
            ("z_after", "mean_after", "square_after", "loss"),
        ),
    )
