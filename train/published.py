"""Figures that others published, from published.yaml: whose, of which benchmark and setting, and how we know."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, model_validator

from train.config import RunConfig

Metric = Literal["image_auroc", "pixel_auroc", "aupro"]


class Benchmark(BaseModel, extra="forbid", frozen=True):
    name: str
    categories: tuple[str, ...]


class Column(BaseModel, extra="forbid", frozen=True):
    """One metric of one source; without `categories`, only its mean over the benchmark is known."""

    detector: str
    benchmark: str
    setting: dict[str, str | int | float]  # what the run's config must say for the figures to be of the same network
    metric: Metric
    source: str  # whose figures these are
    tag: Literal["sec", "recall"]
    where: str
    mean: float
    categories: tuple[float, ...] = ()


class Published(BaseModel, extra="forbid", frozen=True):
    benchmarks: tuple[Benchmark, ...]
    columns: tuple[Column, ...]

    @model_validator(mode="after")
    def _columns_fit_their_benchmarks(self) -> "Published":
        for column in self.columns:
            if len(column.categories) not in {0, len(self.categories_of(column))}:
                raise ValueError(f"{column.source}, {column.metric}: as many figures as {column.benchmark} categories")
        return self

    def categories_of(self, column: Column) -> tuple[str, ...]:
        return next(benchmark.categories for benchmark in self.benchmarks if benchmark.name == column.benchmark)


@cache
def read_published() -> Published:
    return Published.model_validate(yaml.safe_load(Path(__file__).with_name("published.yaml").read_text()))


def published_for(detector: str, config: RunConfig, categories: Iterable[str]) -> list[Column]:
    """What was published for a detector with these settings, on a benchmark that any of the categories belongs to."""
    names = {plain_name(category) for category in categories}
    published = read_published()
    return [
        column
        for column in published.columns
        if column.detector == detector
        and all(getattr(config, key, None) == value for key, value in column.setting.items())
        and names & set(published.categories_of(column))
    ]


def figures(column: Column) -> Mapping[str, float]:
    """By category, where they are known."""
    if not column.categories:
        return {}
    return dict(zip(read_published().categories_of(column), column.categories, strict=True))


def plain_name(category: str) -> str:
    """As published.yaml writes it: `Metal nut` is metal_nut."""
    return category.lower().replace(" ", "_").replace("-", "_")
