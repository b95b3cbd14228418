"""Score histogram and ROC curve as inline SVG that takes the page's colours, by day and by night."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from train.metrics.auroc import Curve

# Matplotlib knows no CSS variables: figures are drawn in colours that stand for them and are swapped in the SVG.
INK, MUTED, GRID, GOOD, BAD, PAPER = "#010203", "#010204", "#010205", "#010206", "#010207", "#010208"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", GOOD: "good", BAD: "bad", PAPER: "card"}
FONT_SIZE = 11
WIDE_RANGE = 8  # scores that spread further than this are shown on a logarithmic axis


@dataclass(frozen=True)
class ScoreAxis:
    """Where a normalised score lies between the left and the right end of a drawing, 0 to 1."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def around(cls, scores: Sequence[float]) -> "ScoreAxis":
        """Holds all scores and the threshold, 1.0, with a margin."""
        values = np.array([*scores, 1.0])
        smallest = float(values[values > 0].min())
        highest = float(values.max())
        if highest / smallest > WIDE_RANGE:
            return cls(min(max(smallest, highest / 1e4), 1.0) / 1.15, highest * 1.15, True)
        margin = 0.04 * (highest - float(values.min())) + 0.02
        return cls(max(float(values.min()) - margin, 0.0), highest + margin, False)

    def position(self, score: float) -> float:
        if self.logarithmic:
            share = math.log(max(score, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (score - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)

    def bins(self, number: int) -> list[float]:
        """Edges of histogram bins of one width on this axis, one of them at the threshold."""
        if self.logarithmic:
            left, right = math.log(self.low), math.log(self.high)
        else:
            left, right = self.low - 1, self.high - 1  # the threshold is at 0
        width = (right - left) / number
        edges = width * np.arange(math.floor(left / width), math.ceil(right / width) + 1)
        edges = np.exp(edges) if self.logarithmic else edges + 1
        edges[edges == 1.0] = np.nextafter(1.0, 2.0)  # a bin holds its left edge, but a score of 1.0 passes
        return list(edges)


def score_histogram(good: Sequence[float], bad: Sequence[float], axis: ScoreAxis, *, names: tuple[str, str]) -> str:
    """Number of parts over score / threshold; what lies right of 1.0 is rejected."""
    with _style():
        figure = Figure(figsize=(7.6, 3.3), layout="constrained", facecolor="none")
        axes = figure.add_subplot()
        edges = axis.bins(36)
        for scores, colour, name in ((good, GOOD, names[0]), (bad, BAD, names[1])):
            clipped = np.clip(np.array(scores, np.float64), axis.low, axis.high)
            axes.hist(clipped, edges, histtype="stepfilled", color=colour, alpha=0.45, label=name)
            axes.hist(clipped, edges, histtype="step", color=colour, linewidth=1.4)
        if axis.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if axis.high / axis.low < 300 else (1,)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(axis.low, axis.high)
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]) * 1.18)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.axvline(1.0, color=INK, linewidth=1.6, linestyle=(0, (4, 2)))
        for text, align, offset in (("◂ pass", "right", -7), ("reject ▸", "left", 7)):
            axes.annotate(
                text, (1.0, 1.0), (offset, -5), xycoords=("data", "axes fraction"), textcoords="offset points",
                ha=align, va="top", color=INK, fontweight="bold",
            )  # fmt: skip
        axes.set_xlabel("image score ÷ threshold")
        axes.set_ylabel("parts")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=INK, handlelength=1.2)
        _plain(axes)
        return _svg(figure, "Histogram of image scores of good and defective parts, with the threshold at 1.0")


def roc_figure(image_roc: Curve | None, pixel_roc: Curve | None, operating_point: tuple[float, float] | None) -> str:
    """Both ROC curves, and the point at which the threshold puts the line."""
    with _style():
        figure = Figure(figsize=(4.3, 3.3), layout="constrained", facecolor="none")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2, linestyle=(0, (2, 2)))
        if pixel_roc:
            axes.plot(*pixel_roc, color=MUTED, linewidth=1.4, linestyle=(0, (5, 2)), label="pixels")
        if image_roc:
            axes.plot(*image_roc, color=BAD, linewidth=2.2, label="images", clip_on=False)
        if operating_point:
            axes.plot(
                *operating_point, marker="o", markersize=8, color=INK, markeredgecolor=PAPER, markeredgewidth=1.5,
                linestyle="none", label="threshold", zorder=5, clip_on=False,
            )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.01)
        axes.set_xlabel("good rejected")
        axes.set_ylabel("defective rejected")
        for ticks in (axes.xaxis, axes.yaxis):
            ticks.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.legend(loc="lower right", frameon=False, labelcolor=INK)
        _plain(axes)
        return _svg(figure, "ROC curve: share of defective parts rejected over share of good parts rejected")


def curves_figure(curves: Mapping[str, Sequence[float]], along: str, what: str, *, legend: bool = True) -> str:
    """Values one after the other; those that are no number are left out."""
    with _style():
        figure = Figure(figsize=(4.6, 3.0), layout="constrained", facecolor="none")
        axes = figure.add_subplot()
        colours = (GOOD, BAD, MUTED, INK)
        for number, (name, values) in enumerate(curves.items()):
            axes.plot(
                np.arange(1, len(values) + 1), values, color=colours[number % 4] if legend else MUTED,
                linewidth=1.8 if legend else 1.1, label=name,
            )  # fmt: skip
        axes.set_xlabel(along)
        axes.set_ylabel(what)
        if legend and len(curves) > 1:
            axes.legend(frameon=False, labelcolor=INK)
        _plain(axes)
        return _svg(figure, f"{what} over {along}")


def _style() -> AbstractContextManager[None]:
    context: AbstractContextManager[None] = matplotlib.rc_context(
        {
            "svg.fonttype": "none",  # text stays text, in the page's font
            "svg.hashsalt": "faultline",
            "font.size": FONT_SIZE,
            "axes.facecolor": "none",
            "text.color": INK,
            "axes.labelcolor": MUTED,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "text.parse_math": False,
        }
    )
    return context


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both")


def _svg(figure: Figure, description: str) -> str:
    """The <svg> element alone: it takes its size and font from the page and keeps no name that the page may know."""
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    view_box = re.findall(r'viewBox="[^"]*"', svg)[0]
    svg = re.sub(r"<svg [^>]*>", f'<svg {view_box} role="img" aria-label="{description}">', svg, count=1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
