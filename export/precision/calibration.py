"""Good training images, on which int8's ranges are found. Never test images, nor those that were held out.

The run records the names of the images that it was trained on; the files are where the user says.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from export.errors import InputError
from train.data.batches import load_images
from train.data.folder import Dataset
from train.progress import Work
from train.run import RunError, TrainedRun, read_held_out

CALIBRATION_IMAGES = 64
COMPARED = 8  # held-out images, to tell the run's folder from another with the same file names
SAME = 2.0  # mean difference in grey levels: decoders round, but two bottles under one camera are 4 apart


def calibration_images(run: TrainedRun, dataset: Dataset) -> UInt8[np.ndarray, "n h w 3"]:
    """Evenly from the images that the run was trained on, at model size.

    Raises:
        RunError: the run doesn't say what it was trained on.
        InputError: `dataset` lacks one of these images among its good training images, or has others of these names.
    """
    names = _trained_on(run.folder)
    known = {sample.path.relative_to(dataset.root).as_posix(): sample.path for sample in dataset.train}
    if missing := [name for name in names if name not in known]:
        raise InputError(
            f"--data {dataset.root}: {missing[0]} is not among its good training images, but {run.folder} was trained "
            f"on it ({len(missing)} of {len(names)} are missing). Give the folder that the run was trained on."
        )
    _check_same(run, dataset.root, known)
    chosen = _evenly(len(names), CALIBRATION_IMAGES)
    with Work("reading calibration images", len(chosen)) as work:
        return load_images([known[names[index]] for index in chosen], run.preprocessing, work.done)


def _check_same(run: TrainedRun, root: Path, known: dict[str, Path]) -> None:
    """InputError where held-out images, of which the run has copies, are other pictures in the folder."""
    images, names = read_held_out(run)
    there = [index for index, name in enumerate(names) if name in known]
    compared = [there[index] for index in _evenly(len(there), COMPARED)]
    found = load_images([known[names[index]] for index in compared], run.preprocessing)
    for index, image in zip(compared, found, strict=True):
        difference = float(np.abs(image.astype(np.float32) - images[index]).mean())
        if difference > SAME:
            raise InputError(
                f"--data {root}: {names[index]} is another picture than the one that {run.folder} held out under this "
                f"name ({difference:.0f} grey levels apart on average). Give the folder that the run was trained on."
            )


def _evenly(count: int, at_most: int) -> list[int]:
    """So many of `count` places, spread over all."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, at_most)).tolist()})


def _trained_on(folder: Path) -> list[str]:
    path = folder / "split.json"
    try:
        names = json.loads(path.read_text())["train"]
        assert names
        assert all(isinstance(name, str) for name in names)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise RunError(
            f"{path}, which lists the images that the run was trained on, is missing or damaged, and int8 finds its "
            "ranges on them. Copy the whole run folder again, or train again."
        ) from None
    return list(names)
