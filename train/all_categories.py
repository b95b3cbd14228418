"""Every category of a folder, fitted and evaluated: what `python -m train table` does before it prints.

RUNS/CATEGORY/seed_N is a run folder like any other. What is finished stays, what was stopped goes on, and what fails in
one category doesn't keep the others from theirs.
"""

import gc
import json
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from train.commands import Say, explain, faults, judge_run, resolve, train_run
from train.config import ConfigError, RunConfig, config_digest, load_config
from train.data.categories import find_categories
from train.data.folder import DataError, Dataset, digest, open_dataset, shown
from train.detectors import Detector
from train.run import RunError, open_run

MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Plan:
    """What to run: one detector with one config on every category, once for each seed."""

    detector: Detector
    config_name: str
    configs: dict[int, RunConfig]  # by seed; they differ in nothing else
    categories: dict[str, Path]  # folders by name
    out: Path
    notes: tuple[str, ...] = ()  # folders that are no category

    @property
    def config(self) -> RunConfig:
        return next(iter(self.configs.values()))

    @property
    def settings(self) -> dict[str, Any]:
        """As asked for; a run's own config.yaml has what it made of them."""
        return {key: value for key, value in self.config.model_dump(mode="json").items() if key != "seed"}


@dataclass(frozen=True)
class Outcome:
    """One category with one seed: its metrics, or the sentence that says why there are none. Neither: still to come."""

    category: str
    seed: int
    run: Path  # below RUNS
    metrics: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def make_plan(
    detector: Detector, path: Path, settings: Sequence[str], seeds: str | None, data: Path, out: Path
) -> Plan:
    """Raises ConfigError and DataError for whatever would spoil every category alike, before anything is trained."""
    if seeds is not None and any(setting.partition("=")[0].strip() == "seed" for setting in settings):
        raise ConfigError("--seeds and --set seed=... contradict each other. Give one of them.")
    config = resolve(detector, path, settings)
    numbers = [config.seed] if seeds is None else _seeds(seeds)
    configs = {seed: resolve(detector, path, [*settings, f"seed={seed}"]) for seed in numbers}
    if (out / "config.yaml").exists():
        raise ConfigError(f"--out {out} is a run folder itself. Give a folder for the runs of all categories.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file. Give a folder for the runs of all categories.")
    folders, skipped = find_categories(data)
    categories = {folder.resolve().name if folder == data else folder.name: folder for folder in folders}
    plan = Plan(detector, path.stem, configs, categories, out, tuple(part.message for part in skipped))
    _same_as_before(plan)
    return plan


def run_plan(plan: Plan, say: Say, on_outcome: Callable[[list[Outcome]], None]) -> list[Outcome]:
    """All outcomes in the order of the plan; `on_outcome` gets them before the first run and after each."""
    outcomes = {
        (name, seed): Outcome(name, seed, Path(name, f"seed_{seed}"))
        for name in plan.categories
        for seed in plan.configs
    }
    on_outcome(list(outcomes.values()))
    for name, folder in plan.categories.items():
        category: _Category | str
        try:
            category = _Category(open_dataset(folder), say)
        except Exception as error:
            category = _sentence(error)
        for seed, config in plan.configs.items():
            before = outcomes[name, seed]
            position = list(outcomes).index((name, seed)) + 1
            say(f"{shown(name)}, seed {seed} ({position} of {len(outcomes)})")
            if isinstance(category, str):
                outcome = Outcome(name, seed, before.run, error=category)
            else:
                outcome = _run(plan.detector, config, category, name, seed, plan.out, before.run)
            if outcome.error:
                say(outcome.error)
            outcomes[name, seed] = outcome
            on_outcome(list(outcomes.values()))
            jax.clear_caches()  # type: ignore[no-untyped-call]  # compiled for this run alone: fifteen categories would keep fifteen
            gc.collect()
    return list(outcomes.values())


class _Category:
    """A category's data, digested once and checked once, when the first run needs it."""

    def __init__(self, dataset: Dataset, say: Say):
        self.dataset, self.digest = dataset, digest(dataset)
        self._say, self._fault, self._checked = say, "", False

    def check(self) -> None:
        """DataError with the first fault, on the first call and on each after it."""
        if not self._checked:
            self._checked = True
            if found := faults(self.dataset, self._say):
                more = f" It has {len(found) - 1} more such faults." if len(found) > 1 else ""
                self._fault = found[0].message + more
        if self._fault:
            raise DataError(self._fault)


def _run(
    detector: Detector, config: RunConfig, category: _Category, name: str, seed: int, out: Path, run: Path
) -> Outcome:
    try:
        metrics = _finished(detector, out / run, category)
        if metrics is None:
            if not (out / run / "thresholds.json").exists():
                category.check()
                _clear_unstarted(out / run)
                resume = (out / run / "config.yaml").exists()
                train_run(detector, config, category.dataset, out / run, product=name, resume=resume)
            metrics = judge_run(open_run(out / run), category.dataset)
        return Outcome(name, seed, run, metrics)
    except Exception as error:  # the other categories go on
        return Outcome(name, seed, run, error=_sentence(error))


def _finished(detector: Detector, run: Path, category: _Category) -> dict[str, Any] | None:
    """The metrics of a finished run; None where there is still something to do. RunError where the data has changed."""
    if not (run / "thresholds.json").exists():
        return None
    try:
        provenance = json.loads((run / "provenance.json").read_text())
        own = config_digest(load_config(run / "config.yaml", detector.schema))
    except (OSError, ValueError) as error:
        raise RunError(f"{run} can't be read: {error}. Delete it; the same command trains it again.") from None
    if provenance.get("data_digest") != category.digest:
        raise RunError(
            f"{run} was trained on other images than {category.dataset.root} holds now. Give --out a new folder, or "
            "delete this run."
        )
    try:
        metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    except (OSError, ValueError):  # not evaluated yet
        return None
    # Someone may have evaluated it with other settings or other images since.
    return metrics if (metrics.get("config_digest"), metrics.get("data_digest")) == (own, category.digest) else None


def _clear_unstarted(run: Path) -> None:
    """A run that was killed before its config was written can't be resumed; what it left is nobody's work."""
    if not run.is_dir() or (run / "config.yaml").exists():
        return
    left = list(run.iterdir())
    if all(path.is_file() and (path.name.startswith(".") or path.suffix in {".json", ".safetensors"}) for path in left):
        for path in left:
            path.unlink()


def _same_as_before(plan: Plan) -> None:
    """A table compares like with like: a folder that was begun with other settings is refused."""
    path = plan.out / "table.json"
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())
        detector, settings = before["detector"], dict(before["settings"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is damaged. Delete it, if the runs beside it are those that you want.") from None
    if detector != plan.detector.name:
        raise ConfigError(f"{plan.out} was begun with {detector}, not {plan.detector.name}. Give --out a new folder.")
    for key in sorted({*settings, *plan.settings}):
        old, new = settings.get(key), plan.settings.get(key)
        if old != new:
            raise ConfigError(
                f"{plan.out} was begun with {key}: {old}, and is to go on with {key}: {new}. "
                "Take the same settings, or give --out a new folder."
            )


def _seeds(words: str) -> list[int]:
    """`0,1,2` to numbers."""
    seeds: list[int] = []
    for word in words.split(","):
        if not word.strip().isascii() or not word.strip().isdigit() or int(word) > MAX_SEED:
            raise ConfigError(f"--seeds {words}: {word.strip() or 'nothing'} is no seed. Write numbers, as in 0,1,2.")
        if int(word) in seeds:
            raise ConfigError(f"--seeds {words}: {int(word)} is there twice. Each seed gives the same run again.")
        seeds.append(int(word))
    return seeds


def _sentence(error: Exception) -> str:
    known = explain(error)
    if known:
        return known[0]
    if os.environ.get("FAULTLINE_LOG", "").lower() == "debug":
        traceback.print_exception(error)
    return f"Unexpected: {type(error).__name__}: {error}. FAULTLINE_LOG=debug shows where."
