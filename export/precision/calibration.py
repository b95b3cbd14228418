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
from train.run import RunError, TrainedRun

CALIBRATION_IMAGES = 64


def calibration_images(run: TrainedRun, dataset: Dataset) -> UInt8[np.ndarray, "n h w 3"]:
    """Evenly from the images that the run was trained on, at model size.

    Raises:
        RunError: the run doesn't say what it was trained on.
        InputError: `dataset` lacks one of these images among its good training images.
    """
    names = _trained_on(run.folder)
    known = {sample.path.relative_to(dataset.root).as_posix(): sample.path for sample in dataset.train}
    if missing := [name for name in names if name not in known]:
        raise InputError(
            f"--data {dataset.root}: {missing[0]} is not among its good training images, but {run.folder} was trained "
            f"on it ({len(missing)} of {len(names)} are missing). Give the folder that the run was trained on."
        )
    chosen = np.unique(np.linspace(0, len(names) - 1, min(len(names), CALIBRATION_IMAGES)).round().astype(int))
    with Work("reading calibration images", len(chosen)) as work:
        return load_images([known[names[index]] for index in chosen], run.preprocessing, work.done)


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
