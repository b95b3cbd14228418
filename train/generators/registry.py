"""Name -> generator."""

import difflib

from train.generators.adabldm import ADABLDM
from train.generators.defect_gan import DEFECT_GAN
from train.generators.generator import Generator

GENERATORS: dict[str, Generator] = {generator.name: generator for generator in (DEFECT_GAN, ADABLDM)}


def find_generator(name: str) -> Generator:
    """KeyError with a sentence where there is none of that name."""
    if name in GENERATORS:
        return GENERATORS[name]
    near = difflib.get_close_matches(name, GENERATORS, n=1)
    raise KeyError(
        f"{name} is not a generator. "
        + (f"Did you mean {near[0]}?" if near else f"There are: {', '.join(GENERATORS)}.")
    )
