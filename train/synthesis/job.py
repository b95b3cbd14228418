"""A job: so many images, of these categories, there, this strong. Sharded, resumable, the same bytes every time.

Image number i belongs to batch i // b, and a batch is drawn whole by the one process whose shard it is, at the same
places, whether all of it is missing or one image. So neither shards nor kills nor the job's length change a pixel.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.preprocess import prepare, read_image
from train.config import ConfigError
from train.data.samples import shown
from train.progress import Work
from train.synthesis.errors import SynthesisError
from train.synthesis.foreground import NoForeground
from train.synthesis.output import Finished, SynthesisFolder, as_json, say_full
from train.synthesis.regions import Region
from train.synthesis.sources import Source, Sources, check_sources
from train.synthesis.task import TOGETHER, Painter, Task, region_of

WRITERS = 4  # threads: a disk's flushes take longer than a drawing
MOST_WAITING = 64  # images drawn and not yet written


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    count: int
    categories: tuple[tuple[str, ...], ...]  # in turn; () in place of a category: restore
    region: Region
    strength: float = 1.0
    seed: int = 0
    threshold: float = 0.5  # of the soft mask at full strength, above which a pixel is defective
    confine: bool = False  # take back what lies outside the region
    shard: tuple[int, int] = (1, 1)

    @property
    def restores(self) -> bool:
        return self.categories == ((),)


@dataclass(frozen=True)
class Summary:
    """What a job, or its shard, has done, in images."""

    total: int
    drawn: int  # this time
    kept: int  # were there already
    empty: int  # nothing was drawn there, now or before
    per_category: dict[str, int]  # that are there


def categories_of(painter: Painter, wanted: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The user's words, or all that the generator knows. ConfigError for what it doesn't know or can't mix."""
    known = painter.categories
    chosen = []
    for words in wanted or known:
        names = tuple(name.strip() for name in words.split(TOGETHER)) if words not in known else (words,)
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"--category {shown(words)} is not known to this generator. It has {', '.join(known)}."
                )
        if len(names) > 1 and painter.exclusive:
            raise ConfigError(
                f"--category {shown(words)}: this generator learned from images of one category each and can't draw "
                "several at once. Give them one by one."
            )
        chosen.append(tuple(sorted(set(names))))
    if len(set(chosen)) < len(chosen):
        raise ConfigError("--category names a category twice. Name each once.")
    return tuple(chosen)


def check_request(request: Request) -> None:
    """ConfigError for numbers that make no sense."""
    number, of = request.shard
    for wrong, message in (
        (request.count < 1, f"--count is {request.count}. Give 1 or more."),
        (request.count > 10**9, f"--count is {request.count}. Give 1000000000 at most."),
        (not 0 < request.strength <= 1, f"--strength is {request.strength:g}. Give a number above 0 and at most 1."),
        (not 0 < request.threshold < 1, f"--mask-threshold is {request.threshold:g}. Give a number between 0 and 1."),
        (not 0 <= request.seed < 2**32, f"--seed is {request.seed}. Give a whole number from 0 to {2**32 - 1}."),
        (not 1 <= number <= of, f"--shard is {number}/{of}. Give 1/{of} to {of}/{of}."),
    ):
        if wrong:
            raise ConfigError(message)


def synthesize(
    painter: Painter,
    sources: Sources,
    request: Request,
    out: Path,
    *,
    split: bytes | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Draws what is missing of a shard. `split` is the split.json of the generator's run, copied beside the images.

    Raises ConfigError and DataError before anything is written, SynthesisError where the disk takes no more or the
    generator gives what is no image.
    """
    check_request(request)
    with Work("checking images", 1) as work:
        check_sources(sources.used(request.count), request.region, work.reached, painter.find_part)
    batches = list(_batches(painter.batch, sources, request))
    tasks = list(dict.fromkeys(task for batch in batches for task in batch))
    painter.check(tasks, request.region)
    folder = SynthesisFolder(out, restored=request.restores)
    try:
        folder.begin(_job(painter, sources, request), split)
        with folder.held(request.shard):
            there = folder.finished(tasks)
            if there.drawn or there.empty:
                say(f"{len(there.drawn) + len(there.empty)} of {len(tasks)} images are there already.")
            _draw_missing(painter, sources, request, folder, batches, there)
            return _summary(tasks, there, folder.finished(tasks))
    except OSError as error:
        whole = folder.finished(tasks)
        raise say_full(error, out, len(whole.drawn), len(tasks)) from error


def _batches(size: int, sources: Sources, request: Request) -> Iterator[list[Task]]:
    """This shard's. The last is filled up with a task that it holds already, for a batch has one size."""
    number, of = request.shard
    for start in range((number - 1) * size, request.count, of * size):
        tasks = [_task(index, sources, request) for index in range(start, min(start + size, request.count))]
        yield tasks + tasks[:1] * (size - len(tasks))


def _task(index: int, sources: Sources, request: Request) -> Task:
    categories = request.categories[index % len(request.categories)]
    return Task(index, request.seed, categories, request.strength, sources.of(index))


def _job(painter: Painter, sources: Sources, request: Request) -> dict[str, Any]:
    """What all images of a folder have in common. Neither count nor shard: both may differ between two calls."""
    return {
        "format": 1,
        "generator": dict(painter.identity),
        "categories": [TOGETHER.join(names) for names in request.categories],
        "region": request.region.text,
        "region_mask": None if request.region.mask is None else _digest(request.region.mask),
        "confine": request.confine,
        "strength": request.strength,
        "mask_threshold": request.threshold,
        "seed": request.seed,
        "restore": request.restores,
        "sources": {"count": len(sources.images), "digest": sources.digest},
        "batch": painter.batch,
    }


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(str(pixels.shape).encode() + np.packbits(pixels).tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Drawn:
    """One image as it came out, at model size."""

    task: Task
    image: np.ndarray
    soft: np.ndarray
    region: np.ndarray
    note: Mapping[str, Any]
    sheet: np.ndarray | None

    def write(self, folder: SynthesisFolder, identity: Mapping[str, Any], request: Request) -> None:
        mask = self.soft > request.threshold * self.task.strength
        source = self.task.source
        about = as_json(
            {
                "index": self.task.index,
                "seed": self.task.seed,
                "generator": dict(identity),
                "source": {"name": source.name, "sha256": source.sha256, "split": source.split},
                "control": {
                    "categories": list(self.task.categories),
                    "region": request.region.text,
                    "region_share": round(float(self.region.mean()), 6),
                    "region_sha256": _digest(self.region),
                    "confined": request.confine,
                },
                "strength": self.task.strength,
                "mask": {
                    "threshold": request.threshold,
                    "pixels": int(mask.sum()),
                    "pixels_outside_region": int((mask & ~self.region).sum()),
                    "mean": round(float(self.soft.mean()), 6),
                },
                **({"drawing": dict(self.note)} if self.note else {}),
            }
        )
        if mask.any() or request.restores:
            folder.write(self.task, self.image, self.soft, mask, self.region, about, self.sheet)
        else:
            folder.write_empty(self.task, about)


def _draw_missing(
    painter: Painter,
    sources: Sources,
    request: Request,
    folder: SynthesisFolder,
    batches: Sequence[Sequence[Task]],
    there: Finished,
) -> None:
    done = there.drawn | there.empty
    total = len({task.index for batch in batches for task in batch})
    writing: deque[Future[None]] = deque()
    with Work("drawing", total, done=len(done)) as work, ThreadPoolExecutor(WRITERS) as pool:

        def wait(most: int) -> None:
            while len(writing) > most:
                writing.popleft().result()
                work.done()

        try:
            if not request.restores:
                _write_sources(painter, sources, batches, folder, pool)
            for batch in batches:
                missing = {task.index for task in batch} - done
                for drawn in _draw(painter, batch, request) if missing else ():
                    if drawn.task.index in missing:
                        missing.remove(drawn.task.index)  # a task that fills the batch up is there twice
                        writing.append(pool.submit(drawn.write, folder, painter.identity, request))
                wait(MOST_WAITING)
            wait(0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_sources(
    painter: Painter,
    sources: Sources,
    batches: Sequence[Sequence[Task]],
    folder: SynthesisFolder,
    pool: ThreadPoolExecutor,
) -> None:
    """What this shard starts from, so that the folder is a set of its own."""
    used = {task.source for batch in batches for task in batch}

    def write(number: int, source: Source) -> None:
        folder.write_source(source, number, prepare(read_image(source.path), painter.preprocessing))

    for future in [pool.submit(write, n, source) for n, source in enumerate(sources.images) if source in used]:
        future.result()


def _draw(painter: Painter, batch: Sequence[Task], request: Request) -> Iterator[_Drawn]:
    images, regions = [], []
    for task in batch:
        frame = read_image(task.source.path)
        try:
            region = region_of(task, request.region, frame, painter)
        except NoForeground as error:
            raise SynthesisError(f"{shown(task.source.path)}: {error}. The image was changed underway.") from None
        if not region.any():
            raise ConfigError(
                f"{shown(task.source.path)}: of the region {request.region.text} nothing is left after the crop and "
                f"at {painter.preprocessing.width} x {painter.preprocessing.height} pixels. Make it larger."
            )
        images.append(prepare(frame, painter.preprocessing))
        regions.append(region)
    before = np.stack(images)
    painted, masks, notes, sheets = painter.paint(before, np.stack(regions), batch)
    if not (np.isfinite(masks).all() and masks.min() >= 0 and masks.max() <= 1):
        raise SynthesisError(
            f"The generator's masks lie between {masks.min():.3g} and {masks.max():.3g}; 0 and 1 are their limits. "
            "Its weights are broken: look at its training's report."
        )
    if request.confine:
        inside = np.stack(regions)
        painted, masks = np.where(inside[..., None], painted, before), np.where(inside, masks, 0)
    for n, (task, image, soft, region) in enumerate(zip(batch, painted, masks, regions, strict=True)):
        yield _Drawn(task, image, soft, region, notes[n] if notes else {}, sheets[n] if sheets else None)


def _summary(tasks: Sequence[Task], before: Finished, after: Finished) -> Summary:
    labels = Counter(task.label for task in tasks if task.index in after.drawn)
    return Summary(
        total=len(tasks),
        drawn=len(after.drawn - before.drawn),
        kept=len(before.drawn),
        empty=len(after.empty),
        per_category=dict(sorted(labels.items())),
    )
