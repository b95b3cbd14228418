import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from train.chunks import chunks, in_chunks


@given(st.integers(1, 20), st.integers(1, 8))
def test_parts_of_one_size_give_what_all_at_once_gives(count, at_once):
    rows, sizes = np.arange(3 * count, dtype=np.float32).reshape(count, 3), []

    def compute(some):
        sizes.append(len(some))
        return {"double": 2 * some, "sums": (some.sum(axis=1),)}

    found = in_chunks(compute, rows, at_once)
    np.testing.assert_array_equal(found["double"], 2 * rows)
    np.testing.assert_array_equal(found["sums"][0], rows.sum(axis=1))
    assert set(sizes) == {at_once}, "one program serves all"
    assert len(sizes) == -(-count // at_once)


def test_the_last_part_is_filled_up_and_what_comes_of_it_is_dropped():
    seen = []

    def compute(some):
        seen.append(some.copy())
        return some

    parts = list(chunks(compute, np.arange(5), 3))
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    assert seen[1].tolist() == [3, 4, 4]
