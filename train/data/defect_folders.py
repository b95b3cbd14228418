"""Class-labelled folders: one folder per class, flat or under train/ and test/; good or normal is defect-free."""

from __future__ import annotations

from pathlib import Path

from train.data import walk
from train.data.defect_set import DefectSample, DefectSet, make_defect_set
from train.data.match_masks import match_masks
from train.data.samples import DataError, Skipped, Split, shown, split_by_content

NORMAL = ("good", "normal")
HELD_OUT = ("test", "val")
MASKS = "ground_truth"


def is_normal(folder: Path) -> bool:
    return folder.name.lower() in NORMAL


def classes_of(folder: Path) -> list[Path]:
    """The folders of a split that are classes: all but that of the masks."""
    return [child for child in walk.subfolders(folder) if child.name.lower() != MASKS]


def open_class_folders(folder: Path, train: Path) -> DefectSet:
    """train/<class>/, and test/<class>/ or val/<class>/ or both, which are held out; masks in ground_truth/<class>/.

    Raises DataError for a class without images, or one that is there to test on only.
    """
    held_out = [side for name in HELD_OUT if (side := walk.child(folder, name))]
    known = {child.name for child in classes_of(train)}
    for child in (child for side in held_out for child in classes_of(side)):
        if child.name not in known and not is_normal(child):
            raise DataError(
                f"{shown(child)} is a class that {shown(train)} lacks (there are {walk.listed(sorted(known))}). Name "
                f"the classes alike, or move some of its images to {shown(train / child.name)}."
            )
    masks = walk.child(folder, MASKS)
    samples, skipped = _of_classes(train, "train", masks)
    for side in held_out:
        more, others = _of_classes(side, "test", masks)
        samples, skipped = samples + more, skipped + others
    beside = [child for child in walk.holding_images(folder) if child not in (train, masks, *held_out)]
    skipped += walk.unused(beside, "only train, test and val are") + walk.loose(folder, "in train/<class>")
    return make_defect_set(folder, "classes", samples, exclusive=True, skipped=skipped)


def open_flat_classes(folder: Path) -> DefectSet:
    """<class>/ folders side by side. A fifth of each class, chosen by content, is held out."""
    samples, skipped = _of_classes(folder, "train", walk.child(folder, MASKS))
    return make_defect_set(folder, "flat_classes", hold_out_a_fifth(samples), exclusive=True, skipped=skipped)


def hold_out_a_fifth(samples: list[DefectSample]) -> list[DefectSample]:
    """Of each class, or mix of classes; chosen by the images' bytes, so that copies stay together."""
    splits: dict[Path, Split] = {}
    for categories in sorted({sample.categories for sample in samples}):
        splits |= split_by_content(sample.path for sample in samples if sample.categories == categories)
    return [DefectSample(s.path, s.categories, s.mask, splits[s.path]) for s in samples]


def _of_classes(side: Path, split: Split, masks_root: Path | None) -> tuple[list[DefectSample], list[Skipped]]:
    classes = classes_of(side)
    if len(normal := [child for child in classes if is_normal(child)]) > 1:
        raise DataError(
            f"{shown(side)} holds {walk.listed(child.name for child in normal)}, and both mean that nothing is wrong. "
            "Make one folder of them."
        )
    images = {child: walk.images(child) for child in classes}
    for child, paths in images.items():
        if not paths:
            raise DataError(
                f"{shown(child)} is a class with no image. Put some in it, as {walk.READABLE}, or delete the folder."
            )
    # Masks lie by class; train/crack/1.png and test/crack/1.png of one name would share one, which the check names.
    masks, _ = match_masks(side, [path for paths in images.values() for path in paths], masks_root)
    samples = [
        DefectSample(path, () if is_normal(child) else (child.name,), masks.get(path), split)
        for child, paths in images.items()
        for path in paths
    ]
    return samples, walk.loose(side, f"in {side.name}/<class>")
