"""What the commands do once their words are read: settings chosen, data checked, a run trained, a run judged.

`fit` and `evaluate` do it for one product, `table` for every category of a folder, by this same code.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from edge_agent.preprocess import ImageError
from train.backbones.errors import WeightsError
from train.config import ConfigError, RunConfig, find_config, load_config
from train.data.check import Finding, as_lines, check
from train.data.defect_check import check_defects
from train.data.defects import DefectSet
from train.data.folder import DataError, Dataset
from train.data.left_out import leave_out, remember, splits_of
from train.detectors import Detector, find_detector
from train.epochs import TrainingDiverged
from train.evaluate import EvaluationError, evaluate, write_metrics
from train.fit import fit as fit_detector
from train.fit_threshold import ThresholdError, Thresholds
from train.generators import Generator, find_generator
from train.memory import OutOfMemory
from train.progress import Work
from train.report import write_report
from train.run import RunError, TrainedRun, about, held_out_with_stains, thresholds_of
from train.synthesis.errors import SynthesisError
from train.system import System

Say = Callable[[str], None]


def choose_detector(name: str) -> Detector:
    try:
        return find_detector(name)
    except KeyError as error:
        raise ConfigError(error.args[0]) from None


def choose_generator(name: str) -> Generator:
    try:
        return find_generator(name)
    except KeyError as error:
        raise ConfigError(error.args[0]) from None


def choose_config(system: System, config: str | None, run: Path | None = None) -> Path:
    """The config file: the one that was named, else that of a run to be resumed, else cpu or paper by the device."""
    if config is None and run is not None and (run / "config.yaml").exists():
        return run / "config.yaml"
    return find_config(system.name, config or ("cpu" if jax.default_backend() == "cpu" else "paper"))


def resolve(system: System, path: Path, settings: Sequence[str]) -> Any:
    return load_config(path, system.schema, settings)


def faults(dataset: Dataset, say: Say) -> list[Finding]:
    """Checks the data and says a line per finding; returns those that would make the training wrong."""
    with Work("checking images", 1) as work:
        findings = check(dataset, progress=work.reached)
    for line in as_lines(findings):
        say(line)
    return [finding for finding in findings if finding.severity == "error"]


def check_data(dataset: Dataset, say: Say, generators: Sequence[Path] = ()) -> None:
    """A line per finding. DataError where training would be wrong.

    `generators` are folders of generated defects: test images that their generator was trained on are named.
    """
    if leak := leave_out(dataset, splits_of(None, generators)).finding():
        say(str(leak))
    if errors := faults(dataset, say):
        raise DataError(
            f"{len(errors)} of these would make the training wrong; nothing was trained. Mend them and start again."
        )


def check_defect_data(defects: DefectSet, say: Say) -> None:
    """As `check_data`, of what a generator learns from."""
    with Work("checking images", 1) as work:
        findings = check_defects(defects, progress=work.reached)
    for line in as_lines(findings):
        say(line)
    if errors := sum(finding.severity == "error" for finding in findings):
        raise DataError(
            f"{errors} of these would make the training wrong; nothing was trained. Mend them and start again."
        )


def train_run(
    detector: Detector, config: RunConfig, dataset: Dataset, out: Path, *, product: str, resume: bool
) -> Thresholds:
    """Trains on checked data, or goes on, and fits the thresholds."""
    thresholds = fit_detector(detector, config, dataset, out, product=product, resume=resume)
    if config.generated_defects is not None:
        remember(config.generated_defects, out)
    return thresholds


def judge_run(
    run: TrainedRun, dataset: Dataset, generators: Sequence[Path] = (), say: Say = lambda line: None
) -> dict[str, Any]:
    """Scores the test images; writes RUN/report.html, then RUN/metrics.json, and returns what that holds.

    Images that a generator of the run, or one of `generators`, was trained on are left out.
    """
    thresholds = thresholds_of(run)
    known = leave_out(dataset, splits_of(run.folder, generators))
    dataset = known.dataset
    if known.left_out:
        say(known.sentence())
    defective = any(not sample.is_good for sample in dataset.test)
    held_out = None if defective else held_out_with_stains(run)
    with Work("scoring", len(dataset.test) + (2 * len(held_out.images) if held_out else 0)) as work:
        evaluation = evaluate(
            run.score_batch,
            dataset,
            run.preprocessing,
            thresholds,
            about(run),
            held_out=held_out,
            batch_size=run.images_at_once,
            on_progress=work.reached,
        )
    if known.left_out:
        evaluation.metrics["left_out"] = {"n": len(known.left_out), "why": known.sentence()}
    write_report(
        run.folder / "report.html",
        evaluation,
        config=run.config.model_dump(mode="json"),
        provenance=run.provenance,
        score_definition=run.score_definition,
        sections=run.detector.sections(run),
    )
    write_metrics(run.folder / "metrics.json", evaluation.metrics)
    return evaluation.metrics


def explain(error: Exception) -> tuple[str, int] | None:
    """Sentence and exit code: 2, the user's input is wrong; 1, the work failed. None: a fault of this program."""
    if isinstance(error, ConfigError | DataError | ImageError | RunError | WeightsError):
        return str(error), 2
    if isinstance(error, TrainingDiverged | OutOfMemory | EvaluationError | ThresholdError | SynthesisError):
        return str(error), 1
    if isinstance(error, OSError):
        return f"{error.filename or 'A file'} can't be used: {error.strerror or error}.", 1
    return None
