"""The report: its sentences, that it is one safe file, that mistakes come first, and that no set breaks it."""

import base64
import dataclasses
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.preprocess import Preprocessing
from train.data.folder import open_dataset
from train.evaluate import About, HeldOut, evaluate
from train.fit_threshold import Thresholds
from train.metrics.auroc import Curve
from train.report import headline, write_report
from train.report.figures import ScoreAxis, roc_figure, score_histogram
from train.report.gallery import DARK_PART, MOST_MISTAKES, draw_gallery
from train.report.wording import key_figures, meaning

SIZE = 24
THRESHOLD = 50.0
PREPROCESSING = Preprocessing(width=SIZE, height=SIZE)
THRESHOLDS = Thresholds(
    image=THRESHOLD,
    pixel=30.0,
    target_false_reject_rate=0.01,
    supported_false_reject_rate=1 / 42,
    false_reject_rate_interval=(0.00062, 0.086),
    pixel_quantile=0.999,
    n_held_out=41,
    rule="The image threshold is the largest score of 41 held-out good images.",
)


def score(images):
    """Pixel score: distance from grey level 100; image score: the largest."""
    maps = np.abs(images.astype(np.float32).mean(axis=-1) - 100)
    return maps.max(axis=(1, 2)), maps


def part(spot):
    """A grey part, uint8, with a spot whose image score is `spot`."""
    image = np.full((SIZE, SIZE, 3), 100, np.uint8)
    image[4:8, 6:9] += np.uint8(spot)
    return image


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def held_out(stains):
    good = np.stack([part(10 + index) for index in range(len(stains))])
    return HeldOut(good, tuple(f"train/good/{i}.png" for i in range(len(stains))), np.stack([part(s) for s in stains]))


def evaluated(folder, *, good=(), bad=None, stains=None, masks=True, product="ring"):
    """An evaluation of parts with these image scores; `bad` maps types of defect to theirs."""
    for index in range(3):
        save(folder / f"train/good/{index}.png", part(index))
    for index, spot in enumerate(good):
        save(folder / f"test/good/{index}.png", part(spot))
    for label, spots in (bad or {}).items():
        for index, spot in enumerate(spots):
            save(folder / f"test/{label}/{index}.png", part(spot))
            if masks:
                mask = np.zeros((SIZE, SIZE), np.uint8)
                mask[4:8, 6:9] = 255
                save(folder / f"ground_truth/{label}/{index}_mask.png", mask)
    return evaluate(
        score, open_dataset(folder), PREPROCESSING, THRESHOLDS,
        About(product, "aesc", "residual", 0, "c0ffee", {"jax": "0.10.2"}),
        held_out=held_out(stains) if stains else None,
    )  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of the file."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]


def report(tmp_path, evaluation, *, config=None, provenance=None):
    path = tmp_path / "report.html"
    write_report(path, evaluation, config=config or {"epochs": 3}, provenance=provenance or {"commit": "872f813"})
    page = Page(path.read_text())
    assert page.open == []
    return page


DEFECTS = {"dent": [80, 90, 40], "scratch": [30, 120]}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            {"good": [10, 20, 60, 30], "bad": DEFECTS},
            "Of 1,000 good parts about 250 are rejected (1 of 4 in the test); of 5 defective test parts 2 escape.",
        ),
        (
            {"good": [10, 20], "bad": {"dent": [80]}},
            "None of 2 good test parts is rejected, which allows for up to 842 in 1,000; of 1 defective test part none "
            "escapes.",
        ),
        (
            {"stains": [90, 20, 70]},
            "Of 1,000 good parts about 24 are rejected, as far as 41 held-out images can tell. Of 3 stains drawn on "
            "good parts 2 are found. No real defect was there to test.",
        ),
        (
            {"bad": {"dent": [80, 20]}},
            "Of 1,000 good parts about 24 are rejected, as far as 41 held-out images can tell; of 2 defective test "
            "parts 1 escapes.",
        ),
        ({"good": [10, 60]}, "Of 1,000 good parts about 500 are rejected (1 of 2 in the test)."),
    ],
)
def test_headline_says_what_the_line_would_see(tmp_path, parts, sentence):
    evaluation = evaluated(tmp_path / "ring", **parts)
    assert headline(evaluation.metrics) == sentence
    assert sentence in report(tmp_path, evaluation).text


def test_figures_and_paragraphs_hold_counts_and_intervals(tmp_path):
    evaluation = evaluated(tmp_path / "ring", good=[10, 20, 60, 30], bad=DEFECTS, stains=[90, 20, 70])
    metrics = evaluation.metrics
    for_the_line, comparing = key_figures(metrics)
    assert [(figure.name, figure.value) for figure in for_the_line] == [
        ("False rejects", "1 of 4"),
        ("Escapes", "2 of 5"),
        ("Drawn stains found", "2 of 3"),
    ]
    assert for_the_line[0].note == "per 1,000 good parts 250; 95 % interval 6.3 to 806"
    assert {figure.name for figure in comparing} > {"Image AUROC", "AUPRO"}
    paragraphs = dict(meaning(metrics))
    assert paragraphs["Good parts"].startswith("1 of 4 good test parts was rejected. The rate on the line")
    assert paragraphs["Threshold"] == THRESHOLDS.rule
    rows = report(tmp_path, evaluation).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "good 4 1 rejected 0.63 % to 81 %" in rows
    assert "scratch 2 1 escapes 1.3 % to 98.7 % dent 3 1 escapes" in rows  # the type that escapes most readily is first
    assert paragraphs["Defective parts"].startswith(
        "Of 5 defective parts 2 escape, most readily scratch (1 of 2). Defects like these, in this mixture, escape "
        "at a rate between 5.3 % and 85 %"
    )


def test_without_defects_the_report_says_what_it_cannot_know(tmp_path):
    page = report(tmp_path, evaluated(tmp_path / "ring", stains=[90, 20, 70]))
    assert "nothing here says how many real defects would escape" in page.text
    assert "threshold fitted on these" in page.text
    assert "Drawn stains not found" in page.text
    assert "Image AUROC" not in page.text
    assert "ROC curve" not in " ".join(page.values("aria-label"))


@pytest.mark.parametrize(
    ("parts", "warning"),
    [
        ({"good": [60] * 9 + [10], "bad": {"dent": [90]}}, "another light, camera or batch"),
        ({"good": [40, 45], "bad": {"dent": [20, 30]}}, "score no higher than good ones (image AUROC 0.000"),
        ({"good": [10, 20], "bad": {"dent": [30, 40, 90]}}, "More than half of the defective parts escape"),
        ({"stains": [20, 30, 90]}, "Fewer than half of the drawn stains are found"),
        ({"good": [10, 20], "bad": {"dent": [80, 90]}}, None),
    ],
)
def test_what_looks_wrong_is_said(tmp_path, parts, warning):
    paragraphs = dict(meaning(evaluated(tmp_path / "ring", **parts).metrics))
    assert warning in paragraphs["Look closer"] if warning else "Look closer" not in paragraphs


def test_file_needs_nothing_outside_itself(tmp_path):
    evaluation = evaluated(tmp_path / "ring", good=[10, 20, 60], bad=DEFECTS, stains=[90, 20])
    page = report(tmp_path, evaluation)
    text = (tmp_path / "report.html").read_text()
    assert "http" not in text
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert all(address.startswith("#") for address in page.values("href") + page.values("xlink:href"))
    assert set(re.findall(r"url\(([^)]{2})", text)) <= {"#p"}  # clip paths of the figures
    sources = page.values("src")
    assert len(sources) > 10
    for source in sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/webp;base64"
        assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) is not None


def test_text_from_outside_stays_text(tmp_path):
    label, product = "<img src=x onerror=alert(1)>", '"><script>alert(2)<'
    evaluation = evaluated(tmp_path / "ring", good=[10], bad={label: [80, 20]}, product=product)
    page = report(
        tmp_path,
        evaluation,
        config={"note": "</table><iframe>", "nested": {"{{ 7 * 7 }}": "$\\frac{1}{2}$"}},
        provenance={"command": "<!-- fit", "commit": None},
    )
    assert "script" not in page.tags
    assert "iframe" not in page.tags
    assert page.values("onerror") == []
    assert all(source.startswith("data:") for source in page.values("src"))
    for shown in (label, product, "</table><iframe>", "nested.{{ 7 * 7 }}", "$\\frac{1}{2}$", "<!-- fit"):
        assert shown in page.text


def test_mistakes_come_first_and_worst_first(tmp_path):
    evaluation = evaluated(tmp_path / "ring", good=[10, 20, 60, 55], bad={"dent": [80, 45, 30, 90], "chip": [40, 70]})
    shown = [(group.heading, [tile.record.score for tile in group.tiles]) for group in draw_gallery(evaluation).groups]
    assert shown == [
        ("Defective parts that escape", [30, 40, 45]),
        ("Good parts rejected", [60, 55]),
        ("Defective parts caught by the smallest margin", [70, 80]),
        ("Good parts nearest to the threshold", [20, 10]),
        ("Defective parts caught most clearly", [90]),
    ]


def test_each_type_is_seen_before_one_is_seen_twice(tmp_path):
    evaluation = evaluated(tmp_path / "ring", bad={"dent": [90, 95, 99, 98, 97], "chip": [60, 61, 65, 66]})
    clear = draw_gallery(evaluation).groups[-1]
    assert [tile.record.label for tile in clear.tiles] == ["dent", "dent", "dent", "dent", "dent"]  # chips were close
    evaluation = evaluated(tmp_path / "disc", bad={"dent": [90, 95, 99, 98, 60], "chip": [61, 62, 85, 86]})
    clear = draw_gallery(evaluation).groups[-1]
    assert [tile.record.score for tile in clear.tiles] == [99, 86, 98, 95, 90]


def test_many_mistakes_are_counted_and_some_are_shown(tmp_path):
    evaluation = evaluated(tmp_path / "ring", good=[10], bad={"dent": list(range(10, 40))})
    page = report(tmp_path, evaluation)
    assert page.text.count("test/dent/") == MOST_MISTAKES
    assert f"{MOST_MISTAKES} of 30, lowest score first." in page.text


@pytest.mark.parametrize(
    ("good", "bad", "stains", "masks"),
    [
        ([], {"dent": [20]}, None, True),
        ([], {"dent": [80], "chip": [0]}, [90, 20], True),
        ([], None, [90], True),
        ([10], None, None, True),
        ([60], None, [20], True),
        ([10], {"dent": [20]}, None, False),
        ([10, 60], {"dent": [80, 90], "chip": [0]}, [90, 20], False),
        ([0], {"dent": [0]}, None, True),
    ],
)
def test_no_set_breaks_it(tmp_path, good, bad, stains, masks):
    page = report(tmp_path, evaluated(tmp_path / "ring", good=good, bad=bad, stains=stains, masks=masks))
    assert not re.search(r"\b(nan|None(?! of))\b", page.text)
    assert ("no mask" in page.text) == (not masks)


def test_same_evaluation_gives_the_same_file(tmp_path):
    evaluation = evaluated(tmp_path / "ring", good=[10, 60], bad=DEFECTS)
    report(tmp_path, evaluation)
    first = (tmp_path / "report.html").read_bytes()
    report(tmp_path, evaluation)
    assert (tmp_path / "report.html").read_bytes() == first
    assert not list(tmp_path.glob(".report*"))


def test_every_colour_follows_the_page(tmp_path):
    report(tmp_path, evaluated(tmp_path / "ring", good=[10, 60], bad=DEFECTS))
    text = (tmp_path / "report.html").read_text()
    style = text[: text.index("</style>")]
    by_day, by_night, on_paper = (
        set(re.findall(r"(--\w+):", block)) for block in re.findall(r":root {(.*?)}", style, re.S)
    )
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used <= by_day == by_night == on_paper
    figures = " ".join(re.findall(r"<svg.*?</svg>", text, re.S))
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", figures)) <= {f"var({name})" for name in used} | {"none"}


def test_a_score_of_one_is_drawn_on_the_side_that_passes():
    for scores in ([0.5, 1.0, 1.2], [0.01, 1.0, 50.0]):
        edges = np.array(ScoreAxis.around(scores).bins(36))
        last_passing = np.flatnonzero(edges > 1.0)[0]
        assert edges[last_passing - 1] < 1.0 < edges[last_passing] == np.nextafter(1.0, 2.0)


@given(scores=st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_positions_keep_the_order_and_stay_inside(scores):
    axis = ScoreAxis.around(scores)
    positions = [axis.position(value) for value in sorted([*scores, 1.0])]
    assert positions == sorted(positions)
    assert 0 <= positions[0] <= positions[-1] <= 1
    assert 0 < axis.position(1.0) < 1
    edges = axis.bins(36)
    assert edges == sorted(edges)
    assert edges[0] <= axis.low
    assert edges[-1] >= axis.high * (1 - 1e-9)


def test_figures_stand_extreme_scores():
    for scores in ([0.0], [1.0, 1.0], [0.0, 1e5], [1e-9, 1e9]):
        svg = score_histogram(scores, [], ScoreAxis.around(scores), names=("good", "defective"))
        assert svg.startswith('<svg viewBox="')
        assert "nan" not in svg
    curve = Curve(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert "threshold" in roc_figure(curve, None, (0.1, 0.9))
    assert "pixels" in roc_figure(curve, curve, None)


def test_large_images_become_thumbnails_with_an_outline_that_shows(tmp_path):
    size = 900
    image = np.full((size, size, 3), 100, np.uint8)
    image[300:304, 500:504] = 190
    mask = np.zeros((size, size), np.uint8)
    mask[300:304, 500:504] = 255
    save(tmp_path / "ring/train/good/0.png", image)
    save(tmp_path / "ring/test/dent/0.png", image)
    save(tmp_path / "ring/ground_truth/dent/0_mask.png", mask)
    dataset, preprocessing = open_dataset(tmp_path / "ring"), Preprocessing(width=size, height=size)
    about = About("ring", "aesc", "residual", 0, "c0ffee", {})
    tile = draw_gallery(evaluate(score, dataset, preprocessing, THRESHOLDS, about)).groups[0].tiles[0]
    pictures = [picture_of(address) for address in (tile.part, tile.overlay, tile.truth)]
    assert {picture.shape for picture in pictures} == {(288, 288, 3)}
    drawn = np.argwhere(np.abs(pictures[2] - pictures[0]).max(axis=-1) > 60)
    assert len(drawn) > 20
    np.testing.assert_allclose(drawn.mean(axis=0), np.array([302, 502]) * 288 / size, atol=1)


def test_what_a_mask_excludes_is_hatched(tmp_path):
    evaluation = evaluated(tmp_path / "ring", good=[10], bad={"dent": [90]})
    judged = np.ones((SIZE, SIZE), bool)
    judged[:, SIZE // 2 :] = False
    masked = dataclasses.replace(evaluation, about=dataclasses.replace(evaluation.about, judged=judged))
    before, after = (picture_of(draw_gallery(e).groups[0].tiles[0].overlay) for e in (evaluation, masked))
    changed = np.abs(after - before).max(axis=-1) > 40  # WebP blurs
    assert changed[:, : SIZE // 2 - 2].sum() == 0
    assert 0.1 < changed[:, SIZE // 2 + 2 :].mean() < 0.6
    assert "Hatched" in report(tmp_path, masked).text
    assert "Hatched" not in report(tmp_path, evaluation).text


def picture_of(address):
    """A picture of the page, RGB."""
    data = np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_map_colours_brighten_with_the_score_and_change_at_the_threshold(tmp_path):
    gallery = draw_gallery(evaluated(tmp_path / "ring", good=[10], bad={"dent": [90]}))
    data = base64.b64decode(gallery.scale.split(",")[1])
    bar = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).mean(axis=0)
    assert gallery.scale_threshold == DARK_PART
    assert np.all(np.diff(bar[::16]) > 0)
    assert bar[int(DARK_PART * bar.size)] < 0.45 * bar[-1]
