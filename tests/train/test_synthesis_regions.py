"""Where a defect may lie: words to pixels, and the part told from its background, or refused."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.config import ConfigError
from train.data.drawn_parts import draw_part
from train.synthesis.control_map import control_maps
from train.synthesis.foreground import NoForeground, find_foreground
from train.synthesis.regions import parse_region
from train.synthesis.sources import Source
from train.synthesis.task import Task

BLANK = np.full((40, 60, 3), 120, np.uint8)


def stream(seed=0):
    return np.random.default_rng(seed)


def disc(size=96, radius=0.3, *, noise=4, seed=0):
    """A dark disc on a bright belt, and where it is."""
    y, x = np.mgrid[:size, :size]
    part = np.hypot(y - size / 2, x - size / 2) < radius * size
    image = np.where(part[..., None], (70, 60, 50), (200, 205, 210)) + stream(seed).integers(
        -noise, noise + 1, (size, size, 1)
    )
    return image.clip(0, 255).astype(np.uint8), part


@given(st.integers(0, 50), st.integers(0, 30), st.integers(1, 60), st.integers(1, 40))
def test_a_box_is_its_pixels_or_does_not_fit(x, y, w, h):
    region = parse_region(f"box:{x},{y},{w},{h}")
    if x + w <= 60 and y + h <= 40:
        pixels = region.pixels(BLANK, stream())
        assert region.fits(60, 40) is None
        assert pixels.sum() == w * h
        assert pixels[y : y + h, x : x + w].all()
    else:
        assert "60 x 40 pixels" in region.fits(60, 40)


def test_a_polygon_a_mask_and_the_whole_image(tmp_path):
    triangle = parse_region("polygon: 0,0; 40,0; 0,30").pixels(BLANK, stream())
    assert abs(triangle.sum() - 600) < 80
    assert triangle[1, 1]
    assert not triangle[29, 39]
    mask = np.zeros((40, 60), np.uint8)
    mask[3:9, 5:7] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    region = parse_region(f"mask:{tmp_path / 'mask.png'}")
    assert np.array_equal(region.pixels(BLANK, stream()), mask > 0)
    assert "does not fit the image, which is 61 x 40" in region.fits(61, 40)
    assert parse_region("image").pixels(BLANK, stream()).all()


@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.05, 0.3]))
def test_a_spot_lies_on_the_part_and_the_stream_says_where(seed, share):
    image, part = disc()
    region = parse_region(f"spot:{share}")
    spot = region.pixels(image, stream(seed))
    assert np.array_equal(spot, region.pixels(image, stream(seed)))
    found = find_foreground(image)
    assert not (spot & ~found).any()
    assert 0.15 * share * found.sum() < spot.sum() < 1.5 * share * found.sum() + 8
    assert abs(int(found.sum()) - int(part.sum())) < 0.1 * part.sum()


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_part_is_found_whole(seed):
    image, _ = draw_part([seed], 128, None, 0.0)
    part = find_foreground(image)
    assert 0.1 < part.mean() < 0.95
    assert cv2.connectedComponents(part.astype(np.uint8))[0] == 2
    assert part[64, 64]


def test_holes_are_of_the_part_and_dust_is_not():
    image, part = disc(noise=1)
    image[45:51, 45:51] = (200, 205, 210)
    image[3:5, 3:5] = 0
    found = find_foreground(image)
    assert found[48, 48]
    assert not found[:8, :8].any()
    assert abs(int(found.sum()) - int(part.sum())) < 0.1 * part.sum()


def texture(seed):
    coarse = stream(seed).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (BLANK, "no part stands out"),
        (stream().integers(0, 256, (96, 96, 3)).astype(np.uint8), "no part stands out"),
        (texture(0), "no part stands out|border is background"),
        (disc(radius=0.05)[0], "covers 0.7% of the image"),
        (
            np.where(np.arange(96)[:, None, None] < 48, np.full((96, 96, 3), 30), 220).astype(np.uint8),
            "no part stands out",
        ),
    ],
    ids=["blank", "noise", "texture", "speck", "halves"],
)
def test_where_there_is_no_part_it_says_so(image, message):
    with pytest.raises(NoForeground, match=message):
        find_foreground(image)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("somewhere", "is not known. There are anywhere"),
        ("box:1,2,3", "1,2,3 is not 4 numbers"),
        ("box:1,2,3,0", "whole pixels, width and height above 0"),
        ("box:1,2,3.5,4", "whole pixels"),
        ("polygon:1,2;3,4", "three corners or more"),
        ("polygon:1,2;3,4;5", "5 is not 2 numbers"),
        ("spot:0", "above 0 and at most 1"),
        ("spot:nan", "nan is not 1 number"),
        ("mask:", "is not known"),
        ("mask:nowhere.png", "nowhere.png is missing"),
    ],
)
def test_words_that_are_no_region(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_region(text)


def test_a_black_mask_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "mask.png"), np.zeros((40, 60), np.uint8))
    with pytest.raises(ConfigError, match="it is black everywhere"):
        parse_region(f"mask:{tmp_path / 'mask.png'}")


def test_a_control_map_asks_in_the_channels_of_the_categories_only(tmp_path):
    source = Source(tmp_path, "a", "train", "")
    regions = np.zeros((3, 4, 4), bool)
    regions[:, 1:3, 1:3] = True
    tasks = [Task(i, 0, names, 1.0, source) for i, names in enumerate([("b",), ("a", "c"), ()])]
    maps = control_maps(regions, tasks, ("a", "b", "c"))
    assert maps.shape == (3, 4, 4, 4)
    assert [list(channels) for channels in maps.sum(axis=(1, 2))] == [[0, 4, 0, 0], [4, 0, 4, 0], [0, 0, 0, 4]]
    assert not maps[:, ~regions[0]].any()
