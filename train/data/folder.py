"""A folder of images to samples: which are good, which are defective, what is trained on.

Four layouts are recognised, by the names of folders alone: MVTec AD, good/ + bad/, a CSV table (`table.py`), and good
images only. docs/data.md shows a tree of each. What belongs to no layout is refused with a sentence, never guessed at.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_agent.preprocess import IMAGE_SUFFIXES
from train.data.samples import (
    GOOD,
    DataError,
    Dataset,
    Sample,
    Skipped,
    composed,
    digest,
    make_dataset,
    relative_name,
    shown,
    split_by_content,
)
from train.data.table import is_table, open_table

__all__ = ["DataError", "Dataset", "Sample", "Skipped", "digest", "open_dataset"]

READABLE = "PNG, JPEG, BMP, TIFF or WebP"


def open_dataset(folder: Path) -> Dataset:
    """Recognise the layout of a folder, or of a .csv file, and list its samples. No image is decoded.

    Raises DataError for what is missing, empty, of no known layout or of two at once.
    """
    try:
        if not folder.exists():
            raise DataError(f"{shown(folder)} does not exist.{_near_miss(folder)}")
        if folder.is_file():
            if folder.suffix.lower() != ".csv":
                raise DataError(
                    f"{shown(folder)} is a file. Give the folder that holds the images, or a .csv file that lists them."
                )
            return open_table(folder)
        children = [child for child in sorted(folder.iterdir()) if not _is_hidden(child)]
        tables = [child for child in children if child.suffix.lower() == ".csv" and is_table(child)]
        train, good = _child(folder, "train"), _child(folder, GOOD)
        found = [f"{shown(part.name)}{'/' if part.is_dir() else ''}" for part in (train, good, *tables) if part]
        if len(found) > 1:
            raise DataError(
                f"{shown(folder)} could be read in {len(found)} ways, for it holds {' and '.join(found)}. "
                f"Move all but one away{', or give the .csv file itself' if tables else ''}."
            )
        if tables:
            return open_table(tables[0])
        if train:
            return _open_mvtec(folder, train)
        if good:
            return _open_good_bad(folder, good)
        return _open_flat(folder, children)
    except OSError as error:
        raise DataError(
            f"{shown(error.filename or folder)} can't be read ({error.strerror}). Check that it exists and may be read."
        ) from error


def _is_hidden(path: Path) -> bool:
    """Left behind by a file manager or an archive: .DS_Store, ._part.jpg, Thumbs.db, __MACOSX, @eaDir."""
    return path.name.startswith(".") or path.name.lower() in {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}


def _open_mvtec(folder: Path, train: Path) -> Dataset:
    good = _child(train, GOOD)
    if good is None:
        inside = _subfolders(train)
        raise DataError(
            f"{shown(train)} has no folder good/"
            + (f" (it holds {_listed(path.name for path in inside)})" if inside else "")
            + ". A detector learns from good parts only: put their images in train/good."
        )
    samples = [Sample(path, "train", GOOD) for path in _images_or_error(good, "training images")]
    others = [path for path in _holding_images(train) if path != good]
    skipped = _unused(others, "a detector learns from train/good only")
    skipped += _loose(train, "in train/good")

    test, ground_truth = _child(folder, "test"), _child(folder, "ground_truth")
    tests: list[Sample] = []
    if test:
        images = {label_folder: _images(label_folder) for label_folder in _subfolders(test)}
        masks, orphans = _match_masks(test, [path for paths in images.values() for path in paths], ground_truth)
        for label_folder, paths in images.items():
            label = GOOD if label_folder.name.lower() == GOOD else label_folder.name
            tests += [Sample(path, "test", label, masks.get(path)) for path in paths]
        skipped += _loose(test, "in test/good or in test/<type of defect>") + orphans
    elif ground_truth:
        skipped += _match_masks(folder, [], ground_truth)[1]
    others = [path for path in _holding_images(folder) if path not in (train, test, ground_truth)]
    skipped += _unused(others, "only train, test and ground_truth are")
    skipped += _loose(folder, "in train/good or under test")
    return make_dataset(folder, "mvtec", samples + tests, skipped)


def _open_good_bad(folder: Path, good: Path) -> Dataset:
    bad, ground_truth = _child(folder, "bad"), _child(folder, "ground_truth")
    others = [path for path in _holding_images(folder) if path not in (good, bad, ground_truth)]
    if others:
        raise DataError(
            f"{shown(folder)} holds {_listed(path.name for path in others)} beside good/. Move defective parts into "
            f"bad/ (bad/{shown(others[0].name)}, for one) and all else out of {shown(folder)}."
        )
    loose = _loose(folder, "in good or bad")
    images = _images_or_error(good, "good images")
    if bad is None:
        return make_dataset(folder, "flat", [Sample(path, "train", GOOD) for path in images], loose)
    splits = split_by_content(images)
    samples = [Sample(path, splits[path], GOOD) for path in images]
    if wrong := _child(bad, GOOD):
        raise DataError(f"{shown(wrong)} says that its parts are good and bad. Rename or move it.")
    defective = _images(bad)
    masks, orphans = _match_masks(bad, defective, ground_truth)
    for path in defective:
        inside = path.relative_to(bad).parts
        samples.append(Sample(path, "test", inside[0] if len(inside) > 1 else "bad", masks.get(path)))
    return make_dataset(folder, "good_bad", samples, loose + orphans)


def _open_flat(folder: Path, children: list[Path]) -> Dataset:
    images = [child for child in children if _is_image(child)]
    inside = _holding_images(folder)
    known = {path.name.lower() for path in inside} & {"test", "bad", "ground_truth"}
    products = [path for path in inside if _child(path, "train") or _child(path, GOOD)]
    if products and not images and not known:
        raise DataError(
            f"{shown(folder)} holds {len(products)} product{'s' * (len(products) > 1)} "
            f"({_listed(path.name for path in products)}). Give one of them: {shown(products[0])}."
        )
    if inside:
        meaning = "it has no train/good" if known else "their names don't say which parts are good"
        raise DataError(
            f"{shown(folder)} holds {'images and ' if images else ''}folders of images "
            f"({_listed(path.name for path in inside)}), but {meaning}. Put good parts in good/ and defective ones "
            "in bad/, or give a folder of good images only."
        )
    if not images:
        suffixes = Counter(child.suffix.lower() or "no suffix" for child in children if child.is_file())
        found = ", ".join(f"{count} with {shown(suffix)}" for suffix, count in suffixes.most_common(3))
        what = f"holds no images (files: {found})" if found else "is empty" if not children else "holds no images"
        raise DataError(f"{shown(folder)} {what}. Put images of good parts in it, as {READABLE}.")
    return make_dataset(folder, "flat", [Sample(path, "train", GOOD) for path in images])


def _match_masks(
    images_root: Path, images: list[Path], masks_root: Path | None
) -> tuple[dict[Path, Path], list[Skipped]]:
    """ground_truth/<type>/<stem>_mask.png, or <stem>.png, for <type>/<stem>.<any suffix>; and what masks remain."""
    masks = _images(masks_root) if masks_root else []
    by_stem: dict[tuple[str, str], Path] = {}
    for mask in reversed(masks):  # so that .png, where there are two, comes before .tif
        assert masks_root is not None
        by_stem[relative_name(mask.parent, masks_root), composed(mask.stem)] = mask
    matched: dict[Path, Path] = {}
    for image in images:
        place, stem = relative_name(image.parent, images_root), composed(image.stem)
        if mask_found := by_stem.get((place, f"{stem}_mask")) or by_stem.get((place, stem)):
            matched[image] = mask_found
    orphans = [mask for mask in masks if mask not in set(matched.values())]
    if not orphans:
        return matched, []
    which = "is a mask that belongs" if len(orphans) == 1 else f"and {len(orphans) - 1} more masks belong"
    return matched, [
        Skipped(
            orphans[0],
            f"{shown(orphans[0])} {which} to no image. A mask is named like its image, with _mask behind it: "
            f"ground_truth/scratch/007_mask.png for {images_root.name}/scratch/007.jpg.",
        )
    ]


def _unused(folders: list[Path], why: str) -> list[Skipped]:
    if not folders:
        return []
    count = sum(len(_images(folder)) for folder in folders)
    names = _listed(path.name for path in folders)
    return [
        Skipped(folders[0], f"{shown(folders[0].parent)}: {count} image{'s' * (count > 1)} in {names} not used: {why}.")
    ]


def _loose(folder: Path, where: str) -> list[Skipped]:
    images = [path for path in _visible(folder) if _is_image(path)]
    if not images:
        return []
    which = "is not used: it has" if len(images) == 1 else f"and {len(images) - 1} more are not used: they have"
    put = "it" if len(images) == 1 else "them"
    return [Skipped(images[0], f"{shown(images[0])} {which} no label there. Put {put} {where}.")]


def _near_miss(folder: Path) -> str:
    siblings = [path.name for path in _visible(folder.parent)] if folder.parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, siblings, n=1)
    return f" Did you mean {shown(folder.parent / near[0])}?" if near else ""


def _images_or_error(folder: Path, what: str) -> list[Path]:
    if not (images := _images(folder)):
        raise DataError(f"{shown(folder)} holds no {what}. Put images of good parts in it, as {READABLE}.")
    return images


def _images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path."""
    return sorted(_walk(folder, frozenset()), key=lambda path: relative_name(path, folder))


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder around it
        return
    for child in _visible(folder):
        if child.is_dir():
            yield from _walk(child, above | {here})
        elif _is_image(child):
            yield child


def _holding_images(folder: Path) -> list[Path]:
    return [child for child in _subfolders(folder) if next(_walk(child, frozenset()), None)]


def _subfolders(folder: Path) -> list[Path]:
    return [child for child in _visible(folder) if child.is_dir()]


def _visible(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if not _is_hidden(child)]


def _child(folder: Path, name: str) -> Path | None:
    """The subfolder of that name, in upper or lower case."""
    found = [child for child in _subfolders(folder) if child.name.lower() == name]
    if len(found) > 1:
        raise DataError(f"{shown(folder)} holds {_listed(path.name for path in found)}. Make one folder of them.")
    return found[0] if found else None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def _listed(names: Iterable[str], most: int = 4) -> str:
    every = [f"{shown(name)}/" for name in names]
    shorter = every if len(every) <= most else [*every[: most - 1], f"{len(every) - most + 1} more"]
    return " and ".join([", ".join(shorter[:-1]), shorter[-1]] if len(shorter) > 1 else shorter)
