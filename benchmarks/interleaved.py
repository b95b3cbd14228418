"""Sides timed in turn, round after round, so that a busy machine disturbs all alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> dict[str, float]:
    """Median seconds of each; the first `warm_up` rounds are not counted."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + warm_up):
        for side, run in sides.items():
            started = clock()
            run()
            if turn >= warm_up:
                times[side].append(clock() - started)
    return {side: statistics.median(values) for side, values in times.items()}
