"""Figures of every category, ours beside published ones: as JSON for scripts, as text and Markdown for people."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from train.all_categories import Outcome, Plan
from train.data.samples import shown
from train.durable import write_text
from train.published import Column, Metric, figures, plain_name, published_for, read_published

METRICS: tuple[Metric, ...] = get_args(Metric)
WORDS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
TAGS = {"sec": "read in a secondary text", "recall": "from memory of the paper"}
NOTHING = "–"


@dataclass(frozen=True)
class Figure:
    mean: float
    spread: float | None  # standard deviation over seeds; None of one seed

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f" ± {self.spread:.3f}" if self.spread is not None else "")


@dataclass(frozen=True)
class Row:
    name: str
    ours: Mapping[Metric, Figure]  # without those that have no value, such as pixel AUROC where no mask is known
    published: tuple[float | None, ...]  # one for each of the table's columns


@dataclass(frozen=True)
class Table:
    plan: Plan
    outcomes: tuple[Outcome, ...]
    columns: tuple[Column, ...]  # published, with figures per category
    rows: tuple[Row, ...]
    mean: Row
    means_only: tuple[Column, ...]  # published, of which only the mean over the benchmark is known

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error]


def make_table(plan: Plan, outcomes: Iterable[Outcome]) -> Table:
    outcomes = tuple(outcomes)
    published = published_for(plan.detector.name, plan.config, plan.categories)
    columns = tuple(column for column in published if column.categories)
    rows = tuple(
        Row(
            name,
            _over_seeds([outcome for outcome in outcomes if outcome.category == name]),
            tuple(figures(column).get(plain_name(name)) for column in columns),
        )
        for name in plan.categories
    )
    means_only = tuple(column for column in published if not column.categories)
    return Table(plan, outcomes, columns, rows, _mean(rows, outcomes, columns), means_only)


def _over_seeds(outcomes: Sequence[Outcome]) -> dict[Metric, Figure]:
    found: dict[Metric, Figure] = {}
    for metric in METRICS:
        values = [value for outcome in outcomes if (value := _value(outcome, metric)) is not None]
        if values:
            found[metric] = _figure(values)
    return found


def _mean(rows: Sequence[Row], outcomes: Sequence[Outcome], columns: Sequence[Column]) -> Row:
    """Over the categories that have the figure. The spread is that of the mean, over seeds that have every category."""
    ours: dict[Metric, Figure] = {}
    for metric in METRICS:
        names = {row.name for row in rows if metric in row.ours}
        by_seed: dict[int, list[float]] = {}
        for outcome in outcomes:
            if outcome.category in names and (value := _value(outcome, metric)) is not None:
                by_seed.setdefault(outcome.seed, []).append(value)
        whole = [statistics.fmean(values) for values in by_seed.values() if len(values) == len(names)]
        if names:
            mean = statistics.fmean(row.ours[metric].mean for row in rows if metric in row.ours)
            ours[metric] = Figure(mean, _figure(whole).spread if whole else None)
    return Row("mean", ours, tuple(_published_mean(column, rows) for column in columns))


def _published_mean(column: Column, rows: Sequence[Row]) -> float | None:
    """Over the same categories as ours, so that the two may be compared; None where it lacks one of them."""
    names = {plain_name(row.name) for row in rows if column.metric in row.ours}
    theirs = figures(column)
    if not names or not names <= set(theirs):
        return None
    return column.mean if names == set(theirs) else statistics.fmean(theirs[name] for name in names)


def _value(outcome: Outcome, metric: Metric) -> float | None:
    value = outcome.metrics.get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _figure(values: Sequence[float]) -> Figure:
    return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def write_table(table: Table) -> None:
    """RUNS/table.json and RUNS/table.md."""
    table.plan.out.mkdir(parents=True, exist_ok=True)
    write_text(table.plan.out / "table.json", json.dumps(as_json(table), indent=2, allow_nan=False) + "\n")
    write_text(table.plan.out / "table.md", as_markdown(table))


def as_json(table: Table) -> dict[str, Any]:
    """All of it, with the figures of each run; what is not there is null."""

    def ours(row: Row) -> dict[str, Any]:
        return {
            metric: {"mean": figure.mean, "spread": figure.spread} if (figure := row.ours.get(metric)) else None
            for metric in METRICS
        }

    def run(outcome: Outcome) -> dict[str, Any]:
        return {
            "seed": outcome.seed,
            "run": outcome.run.as_posix().encode("utf-8", "replace").decode(),
            **{metric: _value(outcome, metric) for metric in METRICS},
            "error": outcome.error,
        }

    return {
        "detector": table.plan.detector.name,
        "config": table.plan.config_name,
        "settings": table.plan.settings,
        "seeds": list(table.plan.configs),
        "complete": all(outcome.metrics for outcome in table.outcomes),
        "categories": {
            shown(row.name): ours(row)
            | {"runs": [run(outcome) for outcome in table.outcomes if outcome.category == row.name]}
            for row in table.rows
        },
        "mean": ours(table.mean),
        "published": [
            column.model_dump(exclude={"detector", "categories"})
            | {"categories": figures(column) or None, "mean_over_the_same": mean}
            for column, mean in zip(
                (*table.columns, *table.means_only),
                (*table.mean.published, *(None for _ in table.means_only)),
                strict=True,
            )
        ],
    }


def as_text(table: Table) -> str:
    """For a terminal: a heading above each group of columns, figures below one another."""
    groups = ["", *("Faultline" for _ in METRICS), *(column.source for column in table.columns)]
    words = ["category", *(WORDS[metric] for metric in METRICS), *(WORDS[column.metric] for column in table.columns)]
    body = [_cells(row) for row in (*table.rows, table.mean)]
    widths = [max(map(len, column)) for column in zip(groups, words, *body, strict=True)]
    first = [group if group != before else "" for group, before in zip(groups, [None, *groups], strict=False)]
    lines = [_title(table), "", *(_aligned(cells, widths) for cells in (first, words, *body)), "", *notes(table)]
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(table: Table) -> str:
    headings = ["category", *(WORDS[metric] for metric in METRICS)]
    headings += [f"{column.source}: {WORDS[column.metric]}" for column in table.columns]
    rows = [headings, ["---", *("---:" for _ in headings[1:])], *(_cells(row) for row in table.rows)]
    rows.append([f"**{cell}**" if cell != NOTHING else cell for cell in _cells(table.mean)])
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([_title(table), "", *lines, "", *(f"- {note}" for note in notes(table)), ""])


def notes(table: Table) -> list[str]:
    """What one has to know to read the figures."""
    said = (
        [f"Our figures: mean over seeds ± standard deviation, {_seeds(table)}."] if len(table.plan.configs) > 1 else []
    )
    to_come = [outcome for outcome in table.outcomes if not outcome.metrics and not outcome.error]
    said += [f"{shown(outcome.category)}, seed {outcome.seed}: {outcome.error}" for outcome in table.failed]
    if to_come:
        said.append(f"{len(to_come)} of {len(table.outcomes)} runs are still to come. The same command goes on.")
    lacking = [shown(row.name) for row in table.rows if not row.ours]
    if lacking and table.mean.ours:
        said.append(f"The mean is without {', '.join(lacking)}.")
    if table.columns:
        said.append(
            "Published figures are those of the official split; the mean of a published column is over the same "
            "categories as ours."
        )
    whose: dict[str, list[str]] = {}
    for column in table.columns:
        whose.setdefault(f"{column.source}: {column.where} ({TAGS[column.tag]}).", []).append(column.metric)
    said += [_first_upper(source) for source in whose]
    for column in table.means_only:
        count = len(read_published().categories_of(column))
        said.append(
            _first_upper(
                f"{column.source}, {WORDS[column.metric]}, mean of the {count} categories of {column.benchmark}: "
                f"{column.mean:.3f} ({TAGS[column.tag]}; {column.where})."
            )
        )
    return said


def _title(table: Table) -> str:
    plan = table.plan
    named = {key: getattr(plan.config, key) for column in (*table.columns, *table.means_only) for key in column.setting}
    setting = "".join(f", {key} {value}" for key, value in named.items())
    return f"{plan.detector.name}, config {plan.config_name}{setting}, {_seeds(table)}"


def _seeds(table: Table) -> str:
    seeds = list(table.plan.configs)
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _cells(row: Row) -> list[str]:
    ours = [str(row.ours[metric]) if metric in row.ours else NOTHING for metric in METRICS]
    return [shown(row.name), *ours, *(NOTHING if value is None else f"{value:.3f}" for value in row.published)]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.rjust(width) if position else cell.ljust(width)
        for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def _first_upper(sentence: str) -> str:
    """Projects keep the spelling of their names."""
    return sentence[:1].upper() + sentence[1:] if sentence.startswith(("paper", "later paper")) else sentence
