"""The report's sentences: metrics.json in the words of a process engineer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from train.metrics.intervals import percent


class KeyFigure(NamedTuple):
    """A number to read at a glance."""

    name: str
    value: str
    note: str


def headline(metrics: Mapping[str, Any]) -> str:
    """What the detector would do on the line, in one sentence or two."""
    sentences = [_false_rejects_in_short(metrics)]
    if n := metrics["n_defective"]:
        parts = _count(n, "defective test part")
        sentences[0] += f"; of {parts} {_escape(sum(metrics['escapes'].values()))}"
    elif n := metrics["n_stained_held_out"]:
        found = round(metrics["stain_detection_rate_held_out"] * n)
        sentences.append(f"Of {_count(n, 'stain')} drawn on good parts {found} {'is' if found == 1 else 'are'} found")
        sentences.append("No real defect was there to test")
    return ". ".join(sentences) + "."


def key_figures(metrics: Mapping[str, Any]) -> list[list[KeyFigure]]:
    """The figures at the top of the report: what matters on the line, then what detectors are compared by."""
    low, high = (_per_1000(rate) for rate in metrics["false_reject_rate_interval"])
    rate = _per_1000(metrics["false_reject_rate"])
    if n := metrics["n_normal"]:
        value = f"{metrics['false_rejects']} of {n}"
        note = f"per 1,000 good parts {rate}; 95 % interval {low} to {high}"
    else:
        n = metrics["threshold_fit"]["n_held_out"]
        value = f"{rate} per 1,000"
        note = f"expected from {n} held-out images; 95 % interval {low} to {high}"
    figures = [KeyFigure("False rejects", value, note)]
    if n := metrics["n_defective"]:
        low, high = metrics["escape_rate_overall_interval"]
        figures.append(
            KeyFigure(
                "Escapes",
                f"{sum(metrics['escapes'].values())} of {n}",
                f"95 % interval {percent(low)} to {percent(high)} of such defects",
            )
        )
    if n := metrics["n_stained_held_out"]:
        low, high = metrics["stain_detection_rate_held_out_interval"]
        figures.append(
            KeyFigure(
                "Drawn stains found",
                f"{round(metrics['stain_detection_rate_held_out'] * n)} of {n}",
                f"held-out good images with a stain drawn on each; 95 % interval {percent(low)} to {percent(high)}",
            )
        )
    notes = {
        "image_auroc": ("Image AUROC", "how often a defective part scores above a good one; 0.5 is guessing"),
        "image_aupr": ("Image AUPR", "precision averaged over all recalls"),
        "image_f1_max": ("Image F1-max", "at the threshold that is best for these test images"),
        "pixel_auroc": ("Pixel AUROC", "how often a defective pixel scores above a good one"),
        "pixel_aupr": ("Pixel AUPR", "image AUPR's counterpart; low where defects are small"),
        "aupro": ("AUPRO", "how much of each defect is marked while at most 30 % of good pixels are"),
    }
    comparing = [
        KeyFigure(name, f"{metrics[key]:.3f}", note) for key, (name, note) in notes.items() if metrics[key] is not None
    ]
    return [figures, comparing] if comparing else [figures]


def meaning(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the numbers mean for the line, and how far they can be trusted: heading and text of each paragraph."""
    paragraphs = [("Good parts", _on_good_parts(metrics)), ("Threshold", metrics["threshold_fit"]["rule"])]
    if left_out := metrics.get("left_out"):
        paragraphs.append(("Left out", left_out["why"]))
    if metrics["n_defective"]:
        paragraphs.append(("Defective parts", _on_defective_parts(metrics)))
    else:
        text = "The data holds none, so nothing here says how many real defects would escape. "
        if metrics["n_stained_held_out"]:
            text += (
                "A drawn stain is a stand-in that shows whether the detector reacts at all; scratches, dents and "
                "missing pieces look different. "
            )
        text += "Collect defective parts in a folder of their own, with masks if you can, and evaluate again."
        paragraphs.append(("Defective parts", text))
    if doubt := _doubt(metrics):
        paragraphs.append(("Look closer", doubt))
    return paragraphs


def _false_rejects_in_short(metrics: Mapping[str, Any]) -> str:
    rate, n = metrics["false_reject_rate"], metrics["n_normal"]
    if not n:
        held_out = metrics["threshold_fit"]["n_held_out"]
        return (
            f"Of 1,000 good parts about {_per_1000(rate)} are rejected, as far as {held_out} held-out images can tell"
        )
    if metrics["false_rejects"] == 0:
        high = _per_1000(metrics["false_reject_rate_interval"][1])
        return f"None of {_count(n, 'good test part')} is rejected, which allows for up to {high} in 1,000"
    return f"Of 1,000 good parts about {_per_1000(rate)} are rejected ({metrics['false_rejects']} of {n} in the test)"


def _on_good_parts(metrics: Mapping[str, Any]) -> str:
    low, high = (percent(rate) for rate in metrics["false_reject_rate_interval"])
    if not metrics["n_normal"]:
        return (
            "There are no good test images beside those that the threshold was fitted on, so the rate of false rejects "
            f"is what that fit promises: {percent(metrics['false_reject_rate'])} are expected, and with 95 % "
            f"confidence it lies between {low} and {high}."
        )
    rejected, n = metrics["false_rejects"], metrics["n_normal"]
    return (
        f"{rejected or 'None'} of {_count(n, 'good test part')} {'were' if rejected > 1 else 'was'} rejected. "
        f"The rate on the line, with 95 % confidence, lies between {low} and {high}. To show by test alone that it is "
        "below 1 % takes 368 good parts of which none is rejected."
    )


def _on_defective_parts(metrics: Mapping[str, Any]) -> str:
    n, escapes = metrics["n_defective"], metrics["escapes"]
    low, high = (percent(rate) for rate in metrics["escape_rate_overall_interval"])
    text = f"Of {_count(n, 'defective part')} {_escape(sum(escapes.values()))}"
    if any(escapes.values()):
        worst = max(escapes, key=lambda label: (metrics["escape_rate"][label], escapes[label]))
        text += f", most readily {worst} ({escapes[worst]} of {metrics['n_per_defect'][worst]})"
    return (
        f"{text}. Defects like these, in this mixture, escape at a rate between {low} and {high} with 95 % confidence. "
        "A type of defect that isn't in the test may escape more often or less."
    )


def _doubt(metrics: Mapping[str, Any]) -> str | None:
    """What ought to be looked into before this detector is used."""
    promised = metrics["threshold_fit"]["false_reject_rate_interval"][1]
    low = metrics["false_reject_rate_interval"][0]
    if metrics["n_normal"] and low > promised:
        return (
            f"The test rejects more good parts (at least {percent(low)}) than the threshold's fit can explain (at most "
            f"{percent(promised)}). The good test images differ from the training images: another light, camera or "
            "batch. Look at the rejected ones below, and add such images to the training folder if they are good."
        )
    if (area := metrics["image_auroc"]) is not None and area <= 0.5:
        return (
            f"Defective parts score no higher than good ones (image AUROC {area:.3f}; 0.5 is guessing), so this "
            "detector doesn't see these defects, unless the folders of good and of defective parts are swapped."
        )
    if metrics["n_defective"] and metrics["escape_rate_overall"] > 0.5:
        return (
            "More than half of the defective parts escape. Train longer, or try another detector or scoring, before "
            "this one goes to the line."
        )
    found = metrics["stain_detection_rate_held_out"]
    if not metrics["n_defective"] and found is not None and found < 0.5:
        return (
            "Fewer than half of the drawn stains are found, and they are easy to see. Train longer, or try another "
            "detector or scoring, before this one goes to the line."
        )
    return None


def _per_1000(rate: float) -> str:
    value = 1000 * rate
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.2g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _escape(number: int) -> str:
    return {0: "none escapes", 1: "1 escapes"}.get(number, f"{number} escape")
