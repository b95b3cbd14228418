"""CODEBRIM, concrete bridges: the classification archive, whose labels lie in XML and not in the folders' names.

Tell it by metadata/defects.xml. The archive of full-size images (annotations/*.xml) is what normal patches are cropped
from (`normal_patches.py`).
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from train.data import walk
from train.data.defect_set import DefectSample, DefectSet, make_defect_set
from train.data.samples import DataError, Split, shown

CATEGORIES = {
    "Crack": "crack",
    "Spallation": "spallation",
    "Efflorescence": "efflorescence",
    "ExposedBars": "exposed_bars",
    "CorrosionStain": "corrosion_stain",
}
NORMAL = "Background"
SPLITS: dict[str, Split] = {"train": "train", "val": "test", "test": "test"}
FOLDERS = ("background", "defects")
LARGEST_XML = 64 * 2**20  # bytes; CODEBRIM's own has 3 MB


def is_codebrim(folder: Path) -> bool:
    metadata = walk.child(folder, "metadata")
    return metadata is not None and (metadata / "defects.xml").is_file()


def open_codebrim(folder: Path) -> DefectSet:
    """{train,val,test}/{background,defects}/*.png with metadata/{background,defects}.xml; val is held out as test is.

    Labels are multi-hot, as the XML gives them; an image that both files are silent about is an error, and so is a
    label without an image in a folder.
    """
    metadata = walk.child(folder, "metadata")
    assert metadata is not None
    labels = {(name, image): kinds for name in FOLDERS for image, kinds in _labels(metadata / f"{name}.xml").items()}
    samples: list[DefectSample] = []
    found: set[tuple[str, str]] = set()
    for side, split in SPLITS.items():
        for name in FOLDERS:
            here = folder / side / name
            for path in walk.images(here) if here.is_dir() else []:
                if (name, path.name) not in labels:
                    raise DataError(
                        f"{shown(path)} has no label: {shown(metadata / f'{name}.xml')} doesn't name it. Unpack the "
                        "classification archive again, images and metadata of one variant."
                    )
                found.add((name, path.name))
                samples.append(DefectSample(path, labels[name, path.name], None, split))
    if missing := sorted(set(labels) - found):
        name, image = missing[0]
        raise DataError(
            f"{shown(metadata / f'{name}.xml')} names {len(missing)} images that no folder holds, {shown(image)} for "
            f"one. Unpack the classification archive again beside it: train/{name}, val/{name} and test/{name}."
        )
    return make_defect_set(folder, "codebrim", samples, exclusive=False)


def shows(element: ElementTree.Element, where: str) -> tuple[str, ...]:
    """The categories that an element's children mark with 1; none where Background is. DataError names `where`."""
    marks = {child.tag: (child.text or "").strip() for child in element}
    if set(marks) != {NORMAL, *CATEGORIES} or not set(marks.values()) <= {"0", "1"}:
        raise DataError(
            f"{where} marks {', '.join(map(shown, marks)) or 'nothing'}; CODEBRIM marks {NORMAL}, "
            f"{', '.join(CATEGORIES)}, each with 0 or 1. Take the file from the archive again."
        )
    categories = tuple(sorted(CATEGORIES[tag] for tag, mark in marks.items() if tag in CATEGORIES and mark == "1"))
    if bool(categories) == (marks[NORMAL] == "1"):
        found = "background and defective at once" if categories else "neither background nor any defect"
        raise DataError(f"{where} is marked as {found}. Correct the 0 and 1 there.")
    return categories


def read_xml(path: Path) -> ElementTree.Element:
    """The root of a file without a document type, so that no entity can grow or reach out. DataError where broken."""
    if path.stat().st_size > LARGEST_XML:
        raise DataError(f"{shown(path)} has more than {LARGEST_XML // 2**20} MB. That is no file of labels.")
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise DataError(f"{shown(path)} declares a document type, which labels need none of. Delete the declaration.")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{shown(path)} is no whole XML ({error}). Copy it again.") from None


def _labels(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    labels: dict[str, tuple[str, ...]] = {}
    for element in read_xml(path):
        name = element.get("name")
        if not name or name in labels:
            raise DataError(f"{shown(path)} names {'an image twice: ' + shown(name) if name else 'no image'}.")
        labels[name] = shows(element, f"{shown(path)}: {shown(name)}")
    return labels
