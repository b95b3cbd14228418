"""The two networks' shapes. Sheet: "Architecture". Widths are multiples of `filters`."""

from typing import NamedTuple


class Conv(NamedTuple):
    """A convolution of stride 2, or its transpose, from one layer to the next."""

    kernel: int
    padding: int  # before the first pixel (train/blocks/strided.py)
    size: int  # side of its output
    width: int  # of its output, in `filters`; 0: the image's channels


class Layout(NamedTuple):
    """Generator from z to image and discriminator back."""

    size: int  # side of the image
    first_size: int  # side of the generator's first map
    first_width: int
    up: tuple[Conv, ...]
    down: tuple[Conv, ...]
    pooled_feature: bool  # f(x) is averaged over the last map, and carries no position


LAYOUTS = {
    # The seed's code, of MNIST.
    "seed": Layout(
        28,
        4,
        8,
        (Conv(3, 1, 7, 4), Conv(4, 1, 14, 2), Conv(4, 1, 28, 0)),
        (Conv(4, 1, 14, 1), Conv(4, 1, 7, 2)),
        True,
    ),
    # DCGAN at half its width, as the paper.
    "dcgan": Layout(
        64,
        4,
        8,
        (Conv(5, 1, 8, 4), Conv(5, 1, 16, 2), Conv(5, 1, 32, 1), Conv(5, 1, 64, 0)),
        (Conv(5, 1, 32, 1), Conv(5, 1, 16, 2), Conv(5, 1, 8, 4), Conv(5, 1, 4, 8)),
        False,
    ),
}
