"""Lines of progress where there is no terminal."""

import io

import pytest
from rich.console import Console

from train import progress
from train.progress import LINE_EVERY_S, Work


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_reckoned_without_the_first_which_often_compiles(clock):
    said = io.StringIO()
    work = Work("training", 11, console=Console(file=said))
    for seconds, note in ((60, "loss 3"), (5, ""), (10, "loss 1"), (LINE_EVERY_S, "")):
        clock[0] += seconds
        work.done(1, note)
    assert said.getvalue().splitlines() == [
        "training 1/11, loss 3",
        "training 3/11, 60 s left, loss 1",
        "training 4/11, 70 s left",
    ]


def test_a_resumed_work_reckons_by_what_it_did_itself(clock):
    said = io.StringIO()
    work = Work("training", 1000, done=900, console=Console(file=said))
    for _ in range(3):
        clock[0] += 2 * LINE_EVERY_S
        work.done(10)
    assert said.getvalue().splitlines() == [
        "training 910/1000",
        "training 920/1000, 4 min left",
        "training 930/1000, 4 min left",
    ]
