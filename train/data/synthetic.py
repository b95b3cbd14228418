"""What a folder that `train synthesize` wrote holds beside images and masks (train/synthesis/output.py writes it)."""

from pathlib import Path

JOB_FILE = "synthesis.json"
SOFT_MASKS, REGIONS, PROVENANCE = "soft_masks", "regions", "provenance"
BESIDE = (SOFT_MASKS, REGIONS, PROVENANCE)


def is_synthetic(folder: Path) -> bool:
    return (folder / JOB_FILE).is_file()
