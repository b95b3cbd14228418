"""A comparison in sentences: for the terminal and for a report."""

from collections.abc import Sequence

from train.quality.compare import ClassDiversity, Comparison, Distances, Spread
from train.section import Section


def sentences(comparison: Comparison) -> Sequence[str]:
    """What a person needs to read the figures, the distances first."""
    whole = comparison.together
    lines = [
        f"{comparison.frechet_name}: {whole.frechet:.4g} between {whole.n_real} real and {whole.n_generated} generated "
        f"images of {comparison.size} x {comparison.size} pixels (weights: {comparison.weights}).",
        *_floor(whole),
        f"{comparison.kernel_name}: {_kernel(whole)}.",
    ]
    if comparison.frechet_name != "FID":
        lines.append("This is no FID: it can be compared with figures on the same network and data alone.")
    for name, of_class in comparison.by_class.items():
        lines.append(
            f"{name}: {of_class.n_real} real and {of_class.n_generated} generated; Fréchet {of_class.frechet:.4g}"
            f"{_of_floor(of_class.frechet_floor)}, kernel {_kernel(of_class)}."
        )
    lines.append(f"Diversity, {comparison.perceptual_name}, mean of all pairs of a class:")
    lines += [f"{name or 'all'}: {_diversity(of_class)}." for name, of_class in comparison.diversity.items()]
    return [*lines, *comparison.notes]


def quality_section(comparison: Comparison) -> Section:
    """For a report."""
    return Section("How near the generated images are to real ones", tuple(sentences(comparison)))


def _floor(whole: Distances) -> list[str]:
    if whole.frechet_floor is None:
        return [f"{whole.n_real} real images are too few for a floor: halves of them can't be compared."]
    half = whole.n_real // 2
    line = f"Its floor, between random halves of the real images ({half} each): {_of(whole.frechet_floor)}."
    if whole.frechet_matched is None:
        return [f"{line} There are too few generated images to compare as many of them with such a half."]
    return [f"{line} As many generated images against such a half: {_of(whole.frechet_matched)}."]


def _kernel(figures: Distances) -> str:
    return f"{figures.kernel:.4g} (deviation over subsets {figures.kernel_spread:.2g}){_of_floor(figures.kernel_floor)}"


def _of_floor(floor: Spread | None) -> str:
    return "" if floor is None else f", its floor {_of(floor)}"


def _of(spread: Spread) -> str:
    return f"{spread.mean:.4g} ± {spread.deviation:.2g}"


def _diversity(of_class: ClassDiversity) -> str:
    if of_class.generated is None:
        return "one generated image has no pair"
    real = "" if of_class.real is None else f", real {of_class.real.mean:.3f}"
    within = of_class.within_clusters
    clustered = (
        "no two are nearest to the same real image"
        if within is None
        else f"{within.mean:.3f} within the {of_class.clusters} clusters around the nearest real image"
    )
    return f"generated {of_class.generated.mean:.3f}{real}; {clustered}"
