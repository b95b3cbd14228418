"""What `synthesize` does once its words are read: the same for JAX and for an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from train.config import ConfigError
from train.data.defect_split import SPLIT_FILE
from train.data.samples import shown
from train.synthesis.job import Request, Summary, categories_of, check_request, synthesize
from train.synthesis.regions import parse_region
from train.synthesis.report import write_job_report
from train.synthesis.sources import Side, find_sources
from train.synthesis.task import Painter


def check_words(*, count: int | None, category: list[str], restore: bool, split: str, shard: str) -> None:
    """What can be said before a generator is opened. ConfigError."""
    if split not in get_args(Side):
        raise ConfigError(f"--split is {shown(split)}. Give train, test or all.")
    if restore and category:
        raise ConfigError("--restore takes defects away, so --category has no meaning with it. Leave one out.")
    if count is None and not restore:
        raise ConfigError("--count is missing: say how many images to draw in all, such as --count 200.")
    _shard(shard)


def run_job(
    painter: Painter,
    run: Path,
    data: Path,
    out: Path,
    *,
    count: int | None,
    category: list[str],
    region: str,
    strength: float,
    seed: int,
    restore: bool,
    split: str,
    threshold: float,
    confine: bool,
    shard: str,
    placed: bool,
    say: Callable[[str], None],
) -> Summary:
    """Of words that `check_words` let pass. `placed`: where defects lie is given for each, so no part has to be found.

    Raises ConfigError and DataError for the user's words and data, SynthesisError for what failed underway."""
    if restore and not painter.restores:
        raise ConfigError(f"{painter.identity['system']} draws defects and takes none away. Leave --restore out.")
    sources = find_sources(data, side=split, seed=seed, restore=restore)  # type: ignore[arg-type]
    request = Request(
        count=len(sources.images) if count is None else count,
        categories=((),) if restore else categories_of(painter, category),
        region=parse_region("image" if (restore or placed) and region == "anywhere" else region),
        strength=strength,
        seed=seed,
        threshold=threshold,
        confine=confine,
        shard=_shard(shard),
    )
    check_request(request)
    say(
        f"{painter.identity['system']} of {painter.identity['product']} on {painter.identity['engine']}: "
        f"{_count(request.count)} from {len(sources.images)} {'defective' if restore else 'normal'} ones, seed {seed}"
    )
    file = run / SPLIT_FILE
    split_of_run = file.read_bytes() if file.exists() else None
    summary = synthesize(painter, sources, request, out, split=split_of_run, say=say)
    write_job_report(out)
    return summary


def conclude(summary: Summary, out: Path, *, restored: bool, say: Callable[[str], None]) -> bool:
    """Says what came of it; False where no image did."""
    if summary.empty:
        say(
            f"{summary.empty} of {summary.total} came out empty: the mask stays below --mask-threshold. None of them "
            "is written as a defect; provenance/empty names them. A larger --count goes on from here."
        )
    whole = sum(summary.per_category.values())
    if summary.total and not whole:
        say("No defect was drawn at all. Train the generator longer, or lower --mask-threshold.")
        return False
    parts = ", ".join(f"{number} {shown(name)}" for name, number in summary.per_category.items())
    done = "Restored" if restored else "Drawn"
    say(f"{done}: {out} holds {_count(whole)} of this call ({parts}), {summary.drawn} new.")
    return True


def as_json(summary: Summary, out: Path) -> dict[str, Any]:
    return {"out": str(out), **asdict(summary)}


def _count(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise ConfigError(f"--shard is {shown(text)}. Give the part and their number, such as 1/4.")
    return int(number), int(of)
