"""Which mask belongs to which image, by their names."""

from __future__ import annotations

from pathlib import Path

from train.data import walk
from train.data.samples import Skipped, composed, relative_name, shown


def match_masks(
    images_root: Path, images: list[Path], masks_root: Path | None
) -> tuple[dict[Path, Path], list[Skipped]]:
    """ground_truth/<type>/<stem>_mask.png, or <stem>.png, for <type>/<stem>.<any suffix>; and what masks remain."""
    masks = walk.images(masks_root) if masks_root else []
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
