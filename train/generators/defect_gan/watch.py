"""What can be seen of a Defect-GAN while it trains: whether its mask vanishes or covers everything."""

from collections.abc import Mapping

from train.generators.defect_gan.config import DefectGANConfig

VANISHED, COVERING = 0.005, 0.5  # of the mean mask (sheet: Pitfalls 1)
MASKS = {"mask_defect": "of drawn defects", "mask_restored": "of restored images"}


def sentences(figures: Mapping[str, float], config: DefectGANConfig) -> tuple[str, ...]:
    """What a person should know of an epoch's figures."""
    if not config.composition:
        return ()
    said = []
    for name, words in MASKS.items():
        mean = figures.get(name, 0.1)
        if mean < VANISHED:
            said.append(
                f"the mean mask {words} is {mean:.4f}, below {VANISHED}: it vanishes, and nothing is drawn any more. "
                "Set a smaller w_mask_size, a longer mask_size_warmup, or a larger w_class_drawn."
            )
        elif mean > COVERING:
            said.append(
                f"the mean mask {words} is {mean:.3f}, above {COVERING}: it covers the image, which is drawn anew "
                "instead of being kept. Set a larger w_mask_size."
            )
    return tuple(said)
