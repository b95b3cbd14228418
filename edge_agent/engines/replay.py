"""Recorded answers, given in turn: the engine of tests and demos, where what counts is everything around the model."""

import numpy as np

from edge_agent.engines import EngineError, Scores, check_images


class ReplayEngine:
    """Gives `recorded` scores of n parts one after the other, and from the start again when they are used up."""

    name = "replay"

    def __init__(self, recorded: Scores):
        if not len(recorded.image_score):
            raise EngineError("A replay needs the scores of at least one part.")
        self._recorded = Scores(*(np.asarray(values, np.float32) for values in recorded))
        self._next: int | None = 0

    def run(self, images: np.ndarray) -> Scores:
        """The next len(images) recorded answers; what the images show does not matter."""
        if self._next is None:
            raise EngineError("The engine was closed. Open it again with open_engine.")
        check_images(images)
        at = (self._next + np.arange(len(images))) % len(self._recorded.image_score)
        self._next = int(at[-1]) + 1
        return Scores(*(values[at] for values in self._recorded))

    def close(self) -> None:
        self._next = None
