"""What a folder that `train synthesize` wrote holds beside images and masks (train/synthesis/output.py writes it)."""

from pathlib import Path

JOB_FILE = "synthesis.json"
SOFT_MASKS, REGIONS, PROVENANCE, SHEETS = "soft_masks", "regions", "provenance", "sheets"
BESIDE = (SOFT_MASKS, REGIONS, PROVENANCE, SHEETS)


def is_synthetic(folder: Path) -> bool:
    return (folder / JOB_FILE).is_file()
