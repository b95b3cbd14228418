"""What a set for a generator is once its layout is read: normal images, and defects of named categories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from train.data.samples import Skipped, Split, content_digest, relative_name


@dataclass(frozen=True)
class DefectSample:
    """An image and the categories of defect that it shows; none: it is normal."""

    path: Path
    categories: tuple[str, ...]
    mask: Path | None  # defective pixels above 127; None: unknown
    split: Split

    @property
    def is_normal(self) -> bool:
        return not self.categories


@dataclass(frozen=True)
class DefectSet:
    """Samples are sorted by path; `categories` too, and what is normal is none of them."""

    root: Path
    layout: str
    categories: tuple[str, ...]
    exclusive: bool  # an image shows one category at most; False: it may show several
    samples: tuple[DefectSample, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def normal(self) -> tuple[DefectSample, ...]:
        """To train on."""
        return tuple(sample for sample in self.samples if sample.split == "train" and sample.is_normal)

    @property
    def defective(self) -> tuple[DefectSample, ...]:
        """To train on."""
        return tuple(sample for sample in self.samples if sample.split == "train" and not sample.is_normal)

    @property
    def held_out(self) -> tuple[DefectSample, ...]:
        """Never to be trained on: normal and defective."""
        return tuple(sample for sample in self.samples if sample.split == "test")


def make_defect_set(
    root: Path,
    layout: str,
    samples: Iterable[DefectSample],
    *,
    exclusive: bool,
    skipped: Iterable[Skipped] = (),
) -> DefectSet:
    ordered = tuple(sorted(samples, key=lambda sample: relative_name(sample.path, root)))
    categories = sorted({category for sample in ordered for category in sample.categories})
    return DefectSet(root, layout, tuple(categories), exclusive, ordered, tuple(skipped))


def digest(defects: DefectSet) -> str:
    """SHA-256, in hex, over each sample's split, categories, relative path and bytes, and those of its mask.

    Raises DataError where a file can't be read.
    """
    return content_digest(
        defects.root,
        (([s.split, "+".join(s.categories)], (s.path, s.mask)) for s in defects.samples),
    )
