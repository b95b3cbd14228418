"""Normal patches cropped from full-size images, away from the boxes that mark their defects (CODEBRIM's way)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_agent.preprocess import inspect_image, read_image
from train.data import walk
from train.data.codebrim import read_xml
from train.data.samples import DataError, composed, relative_name, shown
from train.data.table import is_table, read_rows
from train.durable import write_file

SIDES = ("xmin", "ymin", "xmax", "ymax")
TRIES = 200  # draws of a place, for each patch wanted of an image

Box = tuple[int, int, int, int]  # xmin, ymin, xmax, ymax in pixels


@dataclass(frozen=True)
class Crop:
    """A patch to be written: where it lies in the upright image."""

    image: Path
    name: str  # of the file, without suffix
    x: int
    y: int


def crop_normal(
    images: Path,
    out: Path,
    *,
    size: int,
    count: int,
    boxes: Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Writes up to `count` PNGs of size x size pixels into `out`, as many of one image as of another; returns how many.

    `boxes` is a folder of Pascal-VOC files named as the images are, or a CSV table with the columns file (or path),
    xmin, ymin, xmax, ymax; images that it is silent about are not used, for nobody has said that they are normal.
    Without it every image is normal all over. Two patches of an image share less than half of either side. The same
    seed gives the same patches; those already there are kept, so the same call goes on after a stop.

    Raises DataError for folders that hold nothing, images that are too small, and boxes that can't be read.
    """
    if size < 8 or count < 1:
        raise DataError(f"The patches are to be {size} pixels wide and {count} in number. Give 8 and 1 or more.")
    if not images.is_dir():
        raise DataError(f"{shown(images)} is no folder.{walk.near_miss(images)}")
    paths = walk.images(images)
    marked = None if boxes is None else _read_boxes(boxes)
    if marked is not None:
        paths = [path for path in paths if boxes and _key(path, images, boxes, marked) is not None]
    if not paths:
        silent = f" that {shown(boxes)} speaks of" if boxes else ""
        raise DataError(f"{shown(images)} holds no image{silent}. Give the folder of the full-size images.")
    avoided = {path: _of(path, images, boxes, marked) for path in paths}
    crops = list(_plan(avoided, images, size, count, seed))
    if not crops:
        raise DataError(
            f"No patch of {size} x {size} pixels fits between the defects of the {len(paths)} images in "
            f"{shown(images)}. Take a smaller --size."
        )
    out.mkdir(parents=True, exist_ok=True)
    open_now: tuple[Path, np.ndarray] | None = None
    for done, crop in enumerate(crops, start=1):
        path = out / f"{crop.name}.png"
        if not path.exists():
            if open_now is None or open_now[0] != crop.image:
                open_now = crop.image, read_image(crop.image)
            patch = open_now[1][crop.y : crop.y + size, crop.x : crop.x + size]
            encoded = cv2.imencode(".png", patch[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])[1]
            write_file(path, lambda file, data=encoded.tobytes(): file.write(data))  # type: ignore[misc]
        progress(done, len(crops))
    return len(crops)


def _plan(boxes: Mapping[Path, list[Box]], root: Path, size: int, count: int, seed: int) -> Iterator[Crop]:
    for position, (path, marked) in enumerate(boxes.items()):
        wanted = count // len(boxes) + (position < count % len(boxes))
        name = relative_name(path, root)
        facts = inspect_image(path.read_bytes(), str(path))
        if facts.problem:
            raise DataError(facts.problem)
        width, height = facts.width or 0, facts.height or 0
        avoided = list(marked)
        if facts.orientation > 1:  # some annotate what is stored, others what is shown: neither reading is cropped
            avoided += [_upright(box, facts.orientation, width, height) for box in marked]
        if width < size or height < size:
            raise DataError(
                f"{shown(path)} is {width} x {height} pixels, smaller than a patch of {size} x {size}. Take a smaller "
                "--size, or leave the image out."
            )
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        taken: list[tuple[int, int]] = []
        for _ in range(TRIES * wanted):
            if len(taken) == wanted:
                break
            x, y = int(random.integers(0, width - size + 1)), int(random.integers(0, height - size + 1))
            beside = all(2 * abs(x - a) >= size or 2 * abs(y - b) >= size for a, b in taken)
            if beside and not any(_overlaps(box, x, y, size) for box in avoided):
                taken.append((x, y))
                yield Crop(path, f"{Path(name).with_suffix('').as_posix().replace('/', '-')}_{x}_{y}", x, y)


def _overlaps(box: Box, x: int, y: int, size: int) -> bool:
    xmin, ymin, xmax, ymax = box
    return x <= xmax and xmin < x + size and y <= ymax and ymin < y + size


def _upright(box: Box, orientation: int, width: int, height: int) -> Box:
    """A box of the stored image as it lies when the Exif orientation is applied; sizes are those when upright."""
    xs, ys = (box[0], box[2]), (box[1], box[3])
    if orientation >= 5:  # the stored image lies on its side
        xs, ys = ys, xs
    if orientation in (2, 3, 6, 7):
        xs = (width - 1 - xs[1], width - 1 - xs[0])
    if orientation in (3, 4, 7, 8):
        ys = (height - 1 - ys[1], height - 1 - ys[0])
    return xs[0], ys[0], xs[1], ys[1]


def _of(path: Path, root: Path, boxes: Path | None, marked: Mapping[str, list[Box]] | None) -> list[Box]:
    """An image's boxes."""
    if boxes is None or marked is None:
        return []
    key = _key(path, root, boxes, marked)
    return [] if key is None else marked[key]


def _key(path: Path, root: Path, boxes: Path, marked: Mapping[str, list[Box]]) -> str | None:
    """By which the boxes know an image: its path below its folder or theirs, its name, or its stem."""
    names = (relative_name(path, boxes.parent), relative_name(path, root), composed(path.name), composed(path.stem))
    return next((name for name in names if name in marked), None)


def _read_boxes(path: Path) -> dict[str, list[Box]]:
    """Boxes of defects by image. An image with none but background is there with no box."""
    if path.is_dir():
        files = [child for child in walk.visible(path) if child.suffix.lower() == ".xml"]
        if not files:
            raise DataError(f"{shown(path)} holds no .xml file. Give the folder of the annotations, or a .csv table.")
        return {composed(file.stem): _of_xml(file) for file in files}
    column = "file" if is_table(path, ("file", *SIDES)) else "path"
    boxes: dict[str, list[Box]] = {}
    for row in read_rows(path, (column, *SIDES), repeated=True):
        boxes.setdefault(composed(row[column]), []).append(_box([row[side] for side in SIDES], f"{shown(path)}"))
    return boxes


def _of_xml(path: Path) -> list[Box]:
    boxes = []
    for element in read_xml(path).iter("object"):
        corners = element.find("bndbox")
        if element.findtext(".//Background", "0").strip() == "1":
            continue
        if corners is None:
            raise DataError(f"{shown(path)} has an object without bndbox. Mark it, or delete the object.")
        boxes.append(_box([corners.findtext(side, "") for side in SIDES], shown(path)))
    return boxes


def _box(corners: list[str], where: str) -> Box:
    try:
        xmin, ymin, xmax, ymax = (round(float(corner)) for corner in corners)
    except (ValueError, OverflowError):
        raise DataError(f"{where} has the box {', '.join(map(shown, corners))}. Write {', '.join(SIDES)}.") from None
    if xmax < xmin or ymax < ymin:
        raise DataError(f"{where} has the box {xmin}, {ymin}, {xmax}, {ymax}, which ends before it begins.")
    return xmin, ymin, xmax, ymax
