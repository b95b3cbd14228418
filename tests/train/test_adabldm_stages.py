"""AdaBLDM's stages: how many steps each has, and where one ends and the next begins."""

from collections import Counter

import pytest

from train.generators.adabldm.stages import PRESETS, Edits, Stages, countdown

FREE, LATENT, IMAGE, BOTH = Edits(False, False), Edits(True, False), Edits(False, True), Edits(True, True)


@pytest.mark.parametrize(
    ("preset", "total", "free", "latent", "image"),
    [
        ("seed_countdown", 50, range(20), range(20, 45), range(45, 50)),
        ("official_code", 50, range(26), range(26, 46), range(45, 50)),
        ("seed_durations", 85, range(50), range(50, 80), range(80, 85)),
    ],
)
def test_presets_count_as_the_sheet_does(preset, total, free, latent, image):
    edits = PRESETS[preset].edits
    assert len(edits) == PRESETS[preset].steps == total
    assert [i for i, edit in enumerate(edits) if edit == FREE] == list(free)
    assert [i for i, edit in enumerate(edits) if edit.latent] == list(latent)
    assert [i for i, edit in enumerate(edits) if edit.image] == list(image)


def test_only_the_code_has_a_step_of_both():
    assert {name: Counter(stages.edits)[BOTH] for name, stages in PRESETS.items()} == {
        "seed_countdown": 0,
        "official_code": 1,
        "seed_durations": 0,
    }


def test_stretches_are_the_steps_in_a_row_that_do_the_same():
    assert list(PRESETS["official_code"].stretches()) == [
        (FREE, 0, 26),
        (LATENT, 26, 45),
        (BOTH, 45, 46),
        (IMAGE, 46, 50),
    ]
    assert list(Stages(0, 3, 0).stretches()) == [(LATENT, 0, 3)]
    assert countdown(10, 6, 1) == Stages(4, 5, 1)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((3, -1, 2), "latent=-1, .* is no way to sample. Give three numbers of 0 or more, one of them above 0."),
        ((0, 0, 0), "is no way to sample"),
        ((5, 1, 3, 2), "shares 2 steps, more than one of its stages has. Share fewer."),
    ],
)
def test_counts_that_make_no_sense_are_refused(counts, said):
    with pytest.raises(ValueError, match=said):
        Stages(*counts)
