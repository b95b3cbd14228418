"""What a folder was read as, for the tests of its layouts."""

from pathlib import Path

import pytest

from train.data.folder import Dataset, open_dataset
from train.data.samples import DataError


def listed(dataset: Dataset, split: str) -> list[tuple[str, str, str | None]]:
    """Path, label and mask of each sample, below the root."""
    return [
        (s.path.relative_to(dataset.root).as_posix(), s.label, s.mask and s.mask.relative_to(dataset.root).as_posix())
        for s in getattr(dataset, split)
    ]


def refusal(folder: Path) -> str:
    """The one line with which the folder is refused."""
    with pytest.raises(DataError) as caught:
        open_dataset(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message
