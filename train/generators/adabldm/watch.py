"""What can be seen of AdaBLDM while it trains: whether the denoiser learns, and whether the trimap tells it a thing."""

from collections.abc import Mapping

from train.generators.adabldm.config import AdaBLDMConfig

NOTHING_LEARNED = 0.95  # of held-out noise that is told; 1 is what a fresh denoiser, which tells 0, has
NO_HELP = 1.0  # the noise told with the trimap over that without it


def sentences(figures: Mapping[str, float], config: AdaBLDMConfig) -> tuple[str, ...]:
    """What a person should know of an epoch's figures."""
    said = []
    told = figures.get("noise_of_normal", 0.0)
    if told > NOTHING_LEARNED:
        said.append(
            f"the denoiser's error on held-out normal images is {told:.3f}, and 1 is that of one that has learned "
            "nothing: the loss is not falling. Set a larger learning_rate, fewer warmup_steps, or more domain_epochs."
        )
    if "trimap_loss" in figures and figures.get("share_by_trimap", 0.0) > NO_HELP:
        said.append(
            f"with its trimap a held-out pair's error is {figures['share_by_trimap']:.3f} times that without: the "
            "trimap tells the denoiser nothing yet. Give the second phase more epochs, or a larger learning_rate."
        )
    return tuple(said)
