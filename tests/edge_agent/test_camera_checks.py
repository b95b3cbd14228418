"""Frame checks: each limit finds what it is for, whatever the picture, and lets a sound picture pass."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cameras.checks import (
    REFERENCE_FRAMES,
    Colour,
    FrameChecks,
    colour_of,
    dark_share,
    same_picture,
    saturated_share,
    sharpness,
    thin_out,
    wrong_colour,
)
from edge_agent.cameras.settings import FrameChecksConfig

seeds = st.integers(0, 2**32 - 1)


def part(seed: int = 0, *, size: tuple[int, int] = (48, 64), red: int = 140, blue: int = 80) -> np.ndarray:
    """A textured picture with more red than blue, as most metal and wood under a warm lamp."""
    noise = np.random.default_rng(seed).integers(-40, 41, (*size, 1))
    return np.clip(np.array([red, 110, blue]) + noise, 0, 255).astype(np.uint8)


PARTS = [part(seed) for seed in range(REFERENCE_FRAMES)]


def watched(first: np.ndarray | None = None, *, frames: int = REFERENCE_FRAMES, **limits) -> FrameChecks:
    """Checks that have seen the first frames of a line."""
    checks = FrameChecks(FrameChecksConfig(**limits))
    for seed in range(frames):
        assert checks.look(PARTS[seed] if first is None else first) is None
    return checks


def reason(checks: FrameChecks, image: np.ndarray) -> str | None:
    trouble = checks.look(image)
    return None if trouble is None else trouble.reason


@given(seed=seeds, level=st.integers(0, 254), height=st.integers(1, 700), width=st.integers(1, 700))
def test_thinning_out_keeps_the_shares_of_any_uniform_picture(seed, level, height, width):
    image = np.full((height, width, 3), level, np.uint8)
    sample = thin_out(image)
    assert min(sample.shape[:2]) >= min(height, width, 240)
    assert dark_share(sample, level) == 1.0
    assert dark_share(sample, level - 1) == 0.0
    assert saturated_share(sample) == (1.0 if level >= 250 else 0.0)


@given(seed=seeds, limit=st.integers(0, 254))
def test_black_says_what_a_count_of_all_pixels_says(seed, limit):
    """An independent answer; small frames aren't thinned out."""
    image = np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    dark = sum(all(int(v) <= limit for v in pixel) for pixel in image.reshape(-1, 3)) / 600
    assert dark_share(image, limit) == pytest.approx(dark)
    assert saturated_share(image) == pytest.approx(np.mean([min(map(int, p)) >= 250 for p in image.reshape(-1, 3)]))


@given(seed=seeds, noise=st.integers(0, 10))
def test_a_covered_lens_is_black_with_any_noise_up_to_the_limit_and_a_part_is_not(seed, noise):
    covered = np.random.default_rng(seed).integers(0, noise + 1, (100, 100, 3)).astype(np.uint8)
    checks = watched(size=False)
    assert reason(checks, covered) == "black"
    covered[5, 5] = 255  # a hot pixel is no picture
    assert reason(checks, covered) == "black"
    covered[40:60, 40:60] = 200
    assert reason(watched(size=False, color=False), covered) is None
    assert reason(watched(size=False, color=False, black_level=None), np.zeros((100, 100, 3), np.uint8)) is None


@given(seed=seeds)
def test_saturation_of_all_is_over_exposed_and_of_a_bright_background_is_not(seed):
    image = np.random.default_rng(seed).integers(250, 256, (100, 100, 3)).astype(np.uint8)
    assert reason(watched(size=False), image) == "over_exposed"
    image[:20] = 100  # backlight: the part is a fifth of the picture
    assert reason(watched(size=False, color=False), image) is None
    assert reason(watched(size=False, color=False, over_exposed_share=0.8), image) == "over_exposed"


@given(seed=seeds, sigma=st.floats(0.8, 20))
def test_any_blur_lowers_the_sharpness(seed, sigma):
    image = part(seed)
    assert sharpness(cv2.GaussianBlur(image, (0, 0), sigma)) < 0.3 * sharpness(image)
    assert sharpness(image) == pytest.approx(sharpness(image[:, ::-1]))


def test_blurred_needs_a_limit_configured_or_measured():
    blurred = cv2.GaussianBlur(part(99), (0, 0), 3)
    assert reason(watched(), blurred) is None  # off
    assert reason(watched(sharpness_min=50.0), blurred) == "blurred"
    assert reason(watched(sharpness_min="measured"), blurred) == "blurred"
    assert reason(watched(sharpness_min="measured"), part(99)) is None
    assert reason(watched(frames=REFERENCE_FRAMES - 1, sharpness_min="measured"), blurred) is None  # not yet known
    trouble = watched(sharpness_min=50.0).look(blurred)
    assert trouble is not None
    assert "is blurred: its sharpness is" in trouble.text


@given(seed=seeds, height=st.integers(2, 60), width=st.integers(2, 60))
def test_one_changed_pixel_makes_another_picture(seed, height, width):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert same_picture(image, image.copy())
    other = image.copy()
    other[rng.integers(height), rng.integers(width), rng.integers(3)] ^= 1
    assert not same_picture(image, other)
    assert not same_picture(image, image[:-1])


def test_repeats_are_counted_in_a_row():
    checks = FrameChecks(FrameChecksConfig())
    a, b = part(1), part(2)
    assert [checks.repeats(image) for image in (a, a.copy(), a, b, a, b, b)] == [0, 1, 2, 0, 0, 0, 1]


@given(seed=seeds)
def test_swapped_channels_and_lost_colour_are_told_where_the_camera_was_coloured(seed):
    checks, image = watched(), part(seed)
    assert reason(checks, image) is None
    assert reason(checks, image[..., ::-1]) == "wrong_color"
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    assert reason(checks, grey) == "wrong_color"
    assert reason(watched(color=False), image[..., ::-1]) is None


def test_colour_where_grey_was_is_told():
    grey = np.repeat(part(3)[..., :1], 3, axis=2)
    assert reason(watched(first=grey), part(4)) == "wrong_color"
    assert reason(watched(first=grey), grey) is None


casts = st.lists(st.floats(-255, 255), min_size=1, max_size=REFERENCE_FRAMES)


@given(casts=casts, cast=st.floats(-255, 255))
def test_a_swap_is_never_claimed_where_it_cannot_be_told(casts, cast):
    """Where one of the first frames has no clear cast, or the new one keeps to their side, nothing is said."""
    reference = [Colour(20.0, each) for each in casts]
    said = wrong_colour(Colour(20.0, cast), reference)
    if min(map(abs, casts)) < 10 or min(casts) < 0 < max(casts) or cast * casts[0] >= 0:
        assert said is None
    elif abs(cast) >= min(map(abs, casts)):
        assert said is not None


@given(seed=seeds)
def test_swapping_channels_turns_the_cast_and_keeps_the_chroma(seed):
    image = np.random.default_rng(seed).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    there, back = colour_of(image), colour_of(np.ascontiguousarray(image[..., ::-1]))
    assert there.chroma == pytest.approx(back.chroma)
    assert there.cast == pytest.approx(-back.cast)
    assert there.chroma == pytest.approx(np.mean(image.max(axis=2).astype(float) - image.min(axis=2)))


def test_another_size_is_told_from_the_first_sound_frame_or_the_configured_one():
    checks = FrameChecks(FrameChecksConfig())
    assert reason(checks, np.zeros((30, 40, 3), np.uint8)) == "black"  # no reference: it isn't sound
    assert reason(checks, part(1)) is None
    trouble = checks.look(part(2, size=(30, 40)))
    assert trouble is not None
    assert (trouble.reason, trouble.text) == ("wrong_size", "is 40 x 30 pixels, and 64 x 48 are right")
    assert reason(FrameChecks(FrameChecksConfig(), (40, 30)), part(1)) == "wrong_size"
    assert reason(FrameChecks(FrameChecksConfig(size=False), (40, 30)), part(1)) is None
