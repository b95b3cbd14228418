"""What a generator was trained on is not what a detector is judged on."""

import json

import pytest
from test_defects_readers import put, some

from train.data.defects import open_defects, split_json
from train.data.folder import open_dataset
from train.data.left_out import leave_out, remember, splits_of
from train.data.samples import DataError


@pytest.fixture
def data(tmp_path):
    return put(tmp_path / "data", *some("train/good", 3), *some("test/good", 2), *some("test/dent", 6))


def generator(folder, data, seed=0):
    """A run's split, or a copy of it beside what was drawn."""
    folder.mkdir()
    (folder / "split.json").write_text(json.dumps(split_json(open_defects(data, defects_per_type=2, seed=seed))))
    return folder


def test_a_run_remembers_every_generator_that_it_used(data, tmp_path):
    drawn, other, run = (
        generator(tmp_path / "drawn", data),
        generator(tmp_path / "other", data, seed=3),
        tmp_path / "run",
    )
    run.mkdir()
    dataset = open_dataset(data)
    assert leave_out(dataset, splits_of(run)).dataset == dataset
    assert leave_out(dataset, splits_of(run)).finding() is None
    remember(drawn, run)
    once = leave_out(dataset, splits_of(run))
    assert len(once.left_out) == 2
    assert {sample.label for sample in once.left_out} == {"dent"}
    assert len(once.dataset.test) == 6
    assert set(once.dataset.test) | set(once.left_out) == set(dataset.test)
    remember(other, run)
    both = leave_out(dataset, splits_of(run))
    assert set(both.left_out) > set(once.left_out)
    assert leave_out(dataset, splits_of(None, [drawn, other])).left_out == both.left_out
    finding = both.finding()
    assert (finding.severity, finding.kind) == ("warning", "generator-leak")
    assert f"{len(both.left_out)} test images are left out, for a generator whose defects were used" in finding.message


def test_moved_and_renamed_they_are_known_still(data, tmp_path):
    drawn = generator(tmp_path / "drawn", data)
    before = leave_out(open_dataset(data), splits_of(None, [drawn])).left_out
    contents = {sample.path.read_bytes() for sample in before}
    for path in list((data / "test/dent").iterdir()):
        path.rename(path.with_name(f"moved_{path.name}"))
    data.rename(tmp_path / "elsewhere")
    after = leave_out(open_dataset(tmp_path / "elsewhere"), splits_of(None, [drawn])).left_out
    assert {sample.path.read_bytes() for sample in after} == contents


def test_a_folder_that_no_generator_wrote_is_nothing_to_remember_and_no_answer(data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    remember(data, run)
    assert splits_of(run) == []
    with pytest.raises(DataError, match="split.json can't be read"):
        splits_of(run, [data])
