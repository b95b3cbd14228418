"""Stages of a sample: at first nothing is held to the normal image, then latents are, at last decoded images.

Sheet: "Inference" and the table of what T1, T2 and T3 mean. "Step" is a step of the sampler, the noisiest is number 0.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple


class Edits(NamedTuple):
    """What a step does beside denoising."""

    latent: bool  # before it, the latent outside the defect becomes the normal image's, as noisy as it is then
    image: bool  # after it, the decoded image outside the defect becomes the normal one, and is encoded again


@dataclass(frozen=True)
class Stages:
    """How many steps a sample is in each stage."""

    free: int
    latent: int
    image: int
    shared: int = 0  # last steps of the latent stage that are the first ones of the image stage

    def __post_init__(self) -> None:
        if min(self.free, self.latent, self.image, self.shared) < 0 or self.steps < 1:
            raise ValueError(f"{self} is no way to sample. Give three numbers of 0 or more, one of them above 0.")
        if self.shared > min(self.latent, self.image):
            raise ValueError(f"{self} shares {self.shared} steps, more than one of its stages has. Share fewer.")

    @property
    def steps(self) -> int:
        """Of the sampler."""
        return self.free + self.latent + self.image - self.shared

    @property
    def edits(self) -> tuple[Edits, ...]:
        """Of every step."""
        image_from, latent_to = self.free + self.latent - self.shared, self.free + self.latent
        return tuple(Edits(self.free <= i < latent_to, i >= image_from) for i in range(self.steps))

    def stretches(self) -> Iterator[tuple[Edits, int, int]]:
        """Steps in a row that do the same: what, the first, and the one behind the last."""
        start = 0
        for edits, steps in groupby(self.edits):
            stop = start + len(list(steps))
            yield edits, start, stop
            start = stop


def countdown(t1: int, t2: int, t3: int) -> Stages:
    """With t steps left: free while t1 >= t > t2, latent while t2 >= t > t3, image from there."""
    return Stages(t1 - t2, t2 - t3, t3)


def window(steps: int, cut_off: int, length: int) -> Stages:
    """As the authors' code counts: images from step `cut_off` on, latents in the `length` steps that end with it."""
    return Stages(cut_off - length + 1, length, steps - cut_off, shared=1)


PRESETS = {
    "seed_countdown": countdown(50, 30, 5),
    "official_code": window(50, 45, 20),
    "seed_durations": Stages(50, 30, 5),  # the seed's words taken literally: a chain of 85 steps
}


def find_stages(text: str) -> Stages:
    """A preset by its name, or the steps of the three stages, as 20/25/5.

    Raises:
        ValueError: a sentence, for what is neither.
    """
    if text in PRESETS:
        return PRESETS[text]
    numbers = text.split("/")
    if len(numbers) == 3 and all(number.strip().isdecimal() for number in numbers):
        return Stages(*(int(number) for number in numbers))
    near = difflib.get_close_matches(text, PRESETS, n=1)
    raise ValueError(
        f"There is no preset of the stages called {text!r}. "
        + (f"Did you mean {near[0]}? " if near else f"There are {', '.join(PRESETS)}. ")
        + "Or give the steps of the three stages, such as 20/25/5."
    )
