"""Puts sentences, figures and pictures into report.html.j2."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from train.durable import write_file
from train.evaluate import Evaluation, ImageRecord
from train.metrics.intervals import clopper_pearson, percent
from train.report.figures import ScoreAxis, roc_figure, score_histogram
from train.report.gallery import draw_gallery
from train.report.wording import headline, key_figures, meaning
from train.section import Section


class TypeRow(NamedTuple):
    """One type of part in the table of verdicts."""

    label: str
    is_good: bool
    n: int
    wrong: int
    verb: str  # what those that were judged wrongly do
    interval: str  # of their rate
    positions: tuple[float, ...]  # of the scores on the axis, 0 to 1


def write_report(
    path: Path,
    evaluation: Evaluation,
    *,
    config: Mapping[str, Any],
    provenance: Mapping[str, str | int | float | None],
    score_definition: str = "",
    sections: Sequence[Section] = (),
) -> None:
    """Writes one HTML file that needs nothing else; whole, or the one that was there before.

    `sections` are the detector's own. `config` may be nested. All text in it, in names and in labels is shown as text,
    whatever it holds.
    """
    metrics, threshold = evaluation.metrics, evaluation.thresholds.image
    good, bad = _compared(evaluation.records)
    axis = ScoreAxis.around([record.score / threshold for record in (*good, *bad)])
    drawn = bool(bad) and bad[0].source == "stained"
    histogram = score_histogram(
        [record.score / threshold for record in good],
        [record.score / threshold for record in bad],
        axis,
        names=(
            "good, held out" if good and good[0].source == "held_out" else "good",
            "drawn stain" if drawn else "defective",
        ),
    )
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            about=evaluation.about,
            headline=headline(metrics),
            key_figures=key_figures(metrics),
            meaning=meaning(metrics),
            histogram=Markup(histogram),
            roc=Markup(_roc(evaluation)) if evaluation.image_roc else None,
            rows=_rows(good, bad, axis, threshold),
            threshold_position=axis.position(1.0),
            drawn=drawn,
            gallery=draw_gallery(evaluation),
            sections=as_shown(sections),
            masked=evaluation.about.judged is not None,
            score_definition=score_definition,
            thresholds=evaluation.thresholds,
            settings=list(flat(config)),
            provenance=_provenance(evaluation, provenance),
        )
    )
    write_file(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))


def environment() -> jinja2.Environment:
    """Templates of this folder; all text in them is shown as text."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_keep_percent_with_its_number,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_shown(
    sections: Sequence[Section],
) -> list[tuple[str, tuple[str, ...], list[Markup], tuple[tuple[str, str], ...]]]:
    """Drawings are trusted, words are not."""
    return [(s.heading, s.notes, list(map(Markup, s.drawings)), s.pictures) for s in sections]


def _keep_percent_with_its_number(value: Any) -> Any:
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if isinstance(value, str) else value


def _compared(records: Sequence[ImageRecord]) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Good and defective parts: of the test, or where it has none, held-out ones and drawn stains."""
    test = [record for record in records if record.source == "test"]
    good = [record for record in test if record.is_good]
    bad = [record for record in test if not record.is_good]
    return (
        good or [record for record in records if record.source == "held_out"],
        bad or [record for record in records if record.source == "stained"],
    )


def _rows(good: Sequence[ImageRecord], bad: Sequence[ImageRecord], axis: ScoreAxis, threshold: float) -> list[TypeRow]:
    """Good parts, then the types of defect from the one that escapes most readily."""
    by_label: dict[tuple[bool, str], list[ImageRecord]] = {}
    for record in (*good, *bad):
        by_label.setdefault((record.is_good, record.label), []).append(record)
    rows = []
    for (is_good, label), records in by_label.items():
        n, wrong = len(records), sum(record.false_reject or record.escaped for record in records)
        verb = "rejected" if is_good else "escapes" if wrong == 1 else "escape"
        interval = " to ".join(percent(rate) for rate in clopper_pearson(wrong, n))
        if records[0].source == "held_out":
            interval = "threshold fitted on these"
        elif records[0].source == "stained":
            verb = "not found"
        positions = tuple(round(axis.position(record.score / threshold), 4) for record in records)
        rows.append(TypeRow(label, is_good, n, wrong, verb, interval, positions))
    return sorted(rows, key=lambda row: (not row.is_good, -row.wrong / row.n, row.label))


def _roc(evaluation: Evaluation) -> str:
    metrics = evaluation.metrics
    point = metrics["false_reject_rate"], 1 - metrics["escape_rate_overall"]
    return roc_figure(evaluation.image_roc, evaluation.pixel_roc, point)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "–" if value is None else str(value)


def _provenance(evaluation: Evaluation, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was given, and what metrics.json says of its origin, each once."""
    metrics = evaluation.metrics
    known = {"seed": metrics["seed"], "config_digest": metrics["config_digest"], "data_digest": metrics["data_digest"]}
    return list(flat({**known, **provenance, "versions": metrics["versions"]}))
