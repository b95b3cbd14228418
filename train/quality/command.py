"""What `compare` does once its words are read."""

from pathlib import Path

from train.data.samples import DataError
from train.progress import Work
from train.quality.compare import Comparison, compare
from train.quality.image_sets import comparable, load, open_image_set, side_of
from train.quality.networks import feature_network

LEAST_SIZE = 16


def compare_folders(
    real: Path, generated: Path, features: str, *, size: int | None = None, splits: int, seed: int = 0
) -> Comparison:
    """Two folders of images on the features of a network, by its name or by the file of its weights.

    `size` is the side to which both are scaled first: the generated images' own where it is None, so that a difference
    of resolution does not count as one of content.

    Raises:
        DataError, ImageError, ConfigError, WeightsError: what is wrong with the folders, an image or the network.
    """
    if size is not None and size < LEAST_SIZE:
        raise DataError(f"--size is {size} pixels. Give at least {LEAST_SIZE}.")
    if splits < 1:
        raise DataError(f"--splits is {splits}. Give at least 1: a distance without its floor says nothing.")
    real_set, generated_set, notes = comparable(open_image_set(real), open_image_set(generated))
    for images in (real_set, generated_set):
        if images.count < 2:
            raise DataError(f"{images.root} holds one image. A distance between sets needs at least 2 in each.")
    network = feature_network(features)
    side = size or side_of(generated_set)
    of_real, of_generated = load(real_set, side), load(generated_set, side)
    with Work("running the network", real_set.count + generated_set.count) as work:
        return compare(of_real, of_generated, network, splits=splits, seed=seed, notes=notes, on_progress=work.done)
