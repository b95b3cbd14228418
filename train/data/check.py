"""Is this data fit to train on? Every finding is one line: which file, what was found, what to do.

An error means that training or its figures would be wrong; `fit` stops before it starts (exit code 2). A warning is
printed and training goes on. docs/data.md lists all findings. What a single file says is gathered in `look.py`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from train.data.look import Look, look_at
from train.data.samples import Dataset, Sample, shown

FEWEST_GOOD = 8  # below it the held-out fifth is a single image, and a threshold fitted on one image says nothing
FEW_GOOD = 50  # below it fewer than ten are held out, and the threshold can't promise even one false reject in ten
FEW_TEST = 10  # below it each test image moves a rate by more than a tenth
SMALLEST_SIDE = 32  # pixels
NAMED_ONE_BY_ONE = 3  # more files than that share one warning
OUTLIER_DISTANCE = 8.0  # robust standard deviations above the usual distance to the nearest other good images
OUTLIER_LEVELS = 6.0  # grey levels, and at least this far in absolute terms

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """`message` names the file itself and is one line; `kind` is its one-word name for scripts."""

    severity: Severity
    path: Path
    message: str
    kind: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}"


def check(dataset: Dataset, *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """All that is wrong with a set, errors first, then by path. Decodes every image once, on a few threads.

    `progress(done, total)` is called from this thread after each image. Never raises for what the files hold.
    """
    looks = look_at_all(dataset.train + dataset.test, progress)
    good = [look for look in looks if not look.problem]
    findings = [
        *what_files_say(dataset, looks),
        *_too_few(dataset, good),
        *_outliers(good),
    ]
    return in_order(findings)


def look_at_all(samples: Sequence[Sample], progress: Callable[[int, int], None] | None = None) -> list[Look]:
    """Every image and mask decoded once, on a few threads."""
    looks = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            for done, look in enumerate(pool.map(look_at, samples), start=1):
                looks.append(look)
                if progress:
                    progress(done, len(samples))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return looks


def what_files_say(dataset: Dataset, looks: list[Look]) -> Iterator[Finding]:
    """What is wrong with files whatever they are for: detectors and generators alike."""
    good = [look for look in looks if not look.problem]
    yield from _unreadable(looks)
    yield from _masks(dataset, good)
    yield from _same_picture(good)
    yield from _turned(good)
    yield from _blank(good)
    yield from _sizes(good)
    yield from _colours(good)
    for skipped in dataset.skipped:
        yield Finding("warning", skipped.path, skipped.message, "skipped")


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then by path."""
    return sorted(findings, key=lambda finding: (finding.severity != "error", os.fspath(finding.path)))


def as_lines(findings: Iterable[Finding], *, most: int = 10) -> list[str]:
    """For the terminal: of each kind of finding at most so many lines, then how many more there are."""
    findings = list(findings)
    lines, shown_of, total_of = [], Counter[str](), Counter(finding.kind for finding in findings)
    for finding in findings:
        shown_of[finding.kind] += 1
        if shown_of[finding.kind] <= most:
            lines.append(str(finding))
        if shown_of[finding.kind] == most and total_of[finding.kind] > most:
            lines.append(f"{finding.severity}: {total_of[finding.kind] - most} more like it ({finding.kind}).")
    return lines


def _unreadable(looks: list[Look]) -> Iterator[Finding]:
    for look in looks:
        if look.problem:
            yield Finding("error", look.sample.path, look.problem, look.problem_kind)


def _masks(dataset: Dataset, looks: list[Look]) -> Iterator[Finding]:
    images_of: defaultdict[Path, list[Path]] = defaultdict(list)
    empty, missing, defective = [], [], 0
    for look in looks:
        sample, mask = look.sample, look.sample.mask
        defective += not sample.is_good
        if mask is None:
            missing += [] if sample.is_good else [sample.path]
            continue
        images_of[mask].append(sample.path)
        if look.mask_problem:
            yield Finding("error", mask, look.mask_problem, "mask-unreadable")
        elif look.mask_size != (look.width, look.height):
            found = " x ".join(map(str, look.mask_size or ()))
            yield Finding(
                "error",
                mask,
                f"{shown(mask)} is {found} pixels, but its image {_name(sample.path, dataset)} is {look.width} x "
                f"{look.height}{' when upright' if look.orientation > 1 else ''}. Draw it at the image's size.",
                "mask-size",
            )
        elif sample.is_good and look.mask_pixels:
            yield Finding(
                "error",
                sample.path,
                f"{shown(sample.path)} is labelled good, but its mask {_name(mask, dataset)} marks {look.mask_pixels} "
                "pixels. Correct the label or delete the mask.",
                "label-contradicted",
            )
        elif not sample.is_good and not look.mask_pixels:
            empty.append(mask)
    for mask, images in images_of.items():
        if len(images) > 1:
            yield Finding(
                "error",
                mask,
                f"{shown(mask)} is the mask of {len(images)} images ({_name(images[0], dataset)}, "
                f"{_name(images[1], dataset)}). Give each image a name, or a mask, of its own.",
                "mask-shared",
            )
    yield from _grouped(
        "mask-empty",
        empty,
        ("marks no pixel although its image is labelled defective", "mark no pixel although labelled defective"),
        "Mark the defect, or label the image good.",
        noun="masks",
    )
    if missing and len(missing) == defective:
        yield Finding(
            "warning",
            missing[0],
            f"None of the {defective} defective images has a mask (the first is {shown(missing[0])}): pixel AUROC and "
            "AUPRO can't be computed. Image AUROC can.",
            "masks-missing",
        )
    else:
        yield from _grouped(
            "mask-missing",
            missing,
            ("is defective and has no mask", "are defective and have no mask"),
            "Pixel metrics leave such an image out: draw its mask.",
        )


def _same_picture(looks: list[Look]) -> Iterator[Finding]:
    by_content: defaultdict[str, list[Look]] = defaultdict(list)
    for look in looks:
        by_content[look.content].append(look)
    copies: list[tuple[Path, Path]] = []
    for same in by_content.values():
        first = same[0].sample  # one of train where there is one, for train comes first
        for look in same[1:]:
            other = look.sample
            if other.is_good != first.is_good:
                sides = f"{first.label} ({first.split}) there and {other.label} ({other.split}) here"
                yield Finding(
                    "error",
                    other.path,
                    f"{shown(other.path)} is the same picture as {shown(first.path)}, labelled {sides}. "
                    "Delete the one whose label is wrong.",
                    "label-contradicted",
                )
            elif other.split != first.split:
                yield Finding(
                    "error",
                    other.path,
                    f"{shown(other.path)} is a test image and the same picture as the training image "
                    f"{shown(first.path)}. Delete one of them: what was learned can't be tested.",
                    "leak",
                )
            else:
                copies.append((other.path, first.path))
    advice = "Delete copies: they count twice and make the threshold look better than it is."
    if len(copies) <= NAMED_ONE_BY_ONE:
        for copy, original in copies:
            message = f"{shown(copy)} is the same picture as {shown(original)}. {advice}"
            yield Finding("warning", copy, message, "duplicate")
    else:
        copy, original = copies[0]
        message = f"{len(copies)} images are copies of others, {shown(copy)} of {shown(original)} for one. {advice}"
        yield Finding("warning", copy, message, "duplicate")


def _too_few(dataset: Dataset, looks: list[Look]) -> Iterator[Finding]:
    train = len({look.content for look in looks if look.sample.split == "train"})
    root = shown(dataset.root)
    if train < FEWEST_GOOD:
        yield Finding(
            "error",
            dataset.root,
            f"{root} has {train} different good image{'s' * (train != 1)} to train on that can be read; at least "
            f"{FEWEST_GOOD} are needed, some 200 are good. Record more good parts.",
            "too-few",
        )
    elif train < FEW_GOOD:
        held_out = max(1, round(0.2 * train))
        yield Finding(
            "warning",
            dataset.root,
            f"{root} has only {train} different good images to train on. About {held_out} of them are held out for the "
            f"threshold, too few for less than 1 false reject in {held_out + 1}: record some 200 for 1 in 40.",
            "few",
        )
    if dataset.layout == "flat":
        return
    for what, count, lost in (
        ("good", sum(look.sample.is_good for look in looks if look.sample.split == "test"), "the false-reject rate"),
        ("defective", sum(not look.sample.is_good for look in looks), "the escape rate"),
    ):
        if count == 0:
            message = f"{root} has no {what} test images: neither AUROC nor {lost} can be measured on test images."
        elif count < FEW_TEST:
            message = f"{root} has only {count} {what} test image{'s' * (count > 1)}: AUROC and {lost} are rough."
        else:
            continue
        yield Finding("warning", dataset.root, f"{message} Add some.", "few-test")


def _turned(looks: list[Look]) -> Iterator[Finding]:
    yield from _grouped(
        "exif-rotated",
        [look.sample.path for look in looks if look.orientation > 1],
        ("is stored turned or mirrored (Exif orientation)", "are stored turned or mirrored (Exif orientation)"),
        "It is set upright on reading, here and on the line: make sure that the camera always writes this tag.",
    )


def _blank(looks: list[Look]) -> Iterator[Finding]:
    yield from _grouped(
        "blank",
        [look.sample.path for look in looks if look.blank],
        ("shows one single colour", "show one single colour"),
        "The lens was covered or the light was off: delete it.",
    )
    yield from _grouped(
        "tiny",
        [look.sample.path for look in looks if min(look.width, look.height) < SMALLEST_SIDE],
        (f"is smaller than {SMALLEST_SIDE} pixels", f"are smaller than {SMALLEST_SIDE} pixels"),
        "No defect shows at that size: record it larger.",
    )


def _sizes(looks: list[Look]) -> Iterator[Finding]:
    sizes = Counter((look.width, look.height) for look in looks)
    if len(sizes) < 2:
        return
    (width, height), usual = sizes.most_common(1)[0]
    others = [look for look in looks if (look.width, look.height) != (width, height)]
    odd = max(others, key=lambda look: abs(np.log(look.width / look.height * height / width)))
    stretched = abs(odd.width * height - odd.height * width) > 0.02 * odd.height * width
    effect = "All are resized to one size without keeping the aspect ratio, so the same part is stretched differently"
    if not stretched:
        effect = "All are resized to one size, so fine texture is sharper in some than in others"
    yield Finding(
        "warning",
        odd.sample.path,
        f"{usual} images are {width} x {height} and {len(others)} of another size; "
        f"{shown(odd.sample.path)} is {odd.width} x {odd.height}. {effect}: crop them to one shape, the "
        "one that the line's camera gives.",
        "sizes-differ",
    )


def _colours(looks: list[Look]) -> Iterator[Finding]:
    looks = [look for look in looks if not look.blank]
    grey = [look for look in looks if look.grey]
    if grey and len(grey) < len(looks):
        colour = [look for look in looks if not look.grey]
        odd = min(grey, colour, key=len)
        yield Finding(
            "warning",
            odd[0].sample.path,
            f"{len(grey)} images are grey and {len(colour)} in colour; {shown(odd[0].sample.path)} is "
            f"{'grey' if odd is grey else 'in colour'}. Give only what the line's camera gives.",
            "grey-and-colour",
        )


def _outliers(looks: list[Look]) -> Iterator[Finding]:
    """Good training images that resemble no others: a wrong product, a hand in the picture, a lamp that failed."""
    train = [look for look in looks if look.sample.split == "train"]
    if len(train) < FEWEST_GOOD:
        return
    points = np.stack([np.float32(look.thumbnail).ravel() for look in train if look.thumbnail is not None])
    squares = (points**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0) / points.shape[1])
    to_third = np.sort(distances, axis=1)[:, 3]  # [:, 0] is the image itself; two strays must not vouch for each other
    usual = np.median(to_third)
    spread = 1.4826 * np.median(np.abs(to_third - usual))
    odd = (to_third > usual + OUTLIER_DISTANCE * spread) & (to_third > usual + OUTLIER_LEVELS)
    yield from _grouped(
        "outlier",
        [look.sample.path for look, is_odd in zip(train, odd, strict=True) if is_odd],
        ("looks unlike all other good images", "look unlike all other good images"),
        "Look at it: a wrong part, a hand or a failed lamp is learned as good.",
    )


def _grouped(
    kind: str, paths: list[Path], states: tuple[str, str], advice: str, *, noun: str = "images"
) -> Iterator[Finding]:
    """A warning for each of a few files, one with an example for many; `states` for one file and for several."""
    if len(paths) <= NAMED_ONE_BY_ONE:
        for path in paths:
            yield Finding("warning", path, f"{shown(path)} {states[0]}. {advice}", kind)
    else:
        yield Finding(
            "warning", paths[0], f"{len(paths)} {noun} {states[1]}, {shown(paths[0])} for one. {advice}", kind
        )


def _name(path: Path, dataset: Dataset) -> str:
    """Short form for the second file of a line: below the set's folder where it lies there."""
    return shown(path.relative_to(dataset.root) if path.is_relative_to(dataset.root) else path)
