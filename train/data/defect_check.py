"""Is this data fit for a generator to learn from? The findings of `check.py` that hold for it too, and its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from train.data.check import Finding, Severity, in_order, look_at_all, what_files_say
from train.data.defect_set import DefectSample, DefectSet
from train.data.look import Look
from train.data.samples import GOOD, Dataset, Sample, shown

FEWEST = 2  # different images of a category: of one, a generator can learn no more than to copy it
FEW = 20
FEW_NORMAL = 50
NOT_ASKED = {"masks-missing", "mask-missing"}  # masks help a generator and no figure depends on them


def check_defects(defects: DefectSet, *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """All that is wrong with a set, errors first, then by path. Decodes every image once, on a few threads.

    `progress(done, total)` is called from this thread after each image. Never raises for what the files hold.
    """
    samples = {sample: _as_sample(sample) for sample in defects.samples}
    train = tuple(samples[sample] for sample in defects.samples if sample.split == "train")
    held_out = tuple(samples[sample] for sample in defects.held_out)
    dataset = Dataset(defects.root, "mvtec", train, held_out, defects.skipped)
    looks = look_at_all(train + held_out, progress)
    found = [finding for finding in what_files_say(dataset, looks) if finding.kind not in NOT_ASKED]
    return in_order([*found, *_too_few(defects, {look.sample.path: look for look in looks if not look.problem})])


def _as_sample(sample: DefectSample) -> Sample:
    return Sample(sample.path, sample.split, "+".join(sample.categories) or GOOD, sample.mask)


def _too_few(defects: DefectSet, looks: dict[Path, Look]) -> Iterator[Finding]:
    root = shown(defects.root)

    def different(samples: Iterable[DefectSample]) -> int:
        return len({looks[sample.path].content for sample in samples if sample.path in looks})

    def finding(severity: Severity, message: str, kind: str) -> Finding:
        return Finding(severity, defects.root, f"{root} has {message}", kind)

    normal = different(defects.normal)
    if normal < FEWEST:
        yield finding(
            "error",
            f"{normal} normal image{'s' * (normal != 1)} to train on that can be read; a generator draws defects on "
            "normal ones. Put some 200 in train/good, or crop them from larger images: python -m train crop-normal",
            "no-normal",
        )
    elif normal < FEW_NORMAL:
        yield finding("warning", f"only {normal} different normal images to train on; some 200 are good.", "few")
    for category in defects.categories:
        count = different(sample for sample in defects.defective if category in sample.categories)
        if count < FEWEST:
            yield finding(
                "error",
                f"{count} different image{'s' * (count != 1)} of {shown(category)} to train on; at least {FEWEST} are "
                "needed, some 100 are good. Add some, or take the category out.",
                "too-few",
            )
        elif count < FEW:
            yield finding(
                "warning",
                f"only {count} different images of {shown(category)} to train on: what is drawn will resemble them "
                "closely. Some 100 are good.",
                "few",
            )
