"""An engine kept in service by the real supervisor, and a line of parts before it, for tests."""

import threading
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from queue import Queue

import pytest
from judging import judges_of, parts_of
from stand_in_engines import open_stand_in
from tiny_bundle import SIZE, THRESHOLD, golden_arrays

from edge_agent.cameras import Frame
from edge_agent.engines.child import Candidate
from edge_agent.engines.serve import serve_bundle
from edge_agent.health import Tally
from edge_agent.messages import Model, Origin, Topics
from edge_agent.pipeline import inspect, show
from edge_agent.preprocess import Preprocessing

PREPROCESSING = Preprocessing(width=SIZE[1], height=SIZE[0])
ORIGIN = Origin(
    "press-7", "top", 41, Topics("faultline", "plant", "l1", "s1", "top"),
    Model(name="dots", version=3, digest="0" * 64, system="tiny"), "0.1.0",
)  # fmt: skip
PLAIN, FAST, WRONG = Candidate("onnxruntime"), Candidate("openvino", "float32"), Candidate("openvino", "bfloat16")


@contextmanager
def serving(bundle, of, **options):
    """The supervisor, with `statuses` and `incidents` as they came."""
    statuses, incidents = [], []
    options = {"asked": of[0].kind, "opener": open_stand_in, "timeout_s": 1.0, **options}
    engine = serve_bundle(bundle, of, on_change=statuses.append, on_incident=incidents.append, **options)
    engine.statuses, engine.incidents = statuses, incidents
    try:
        yield engine
    finally:
        engine.close()


def wait_until(happened, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Line:
    """A camera that gives `images` in turn and for ever; its verdicts by sequence. Runs in threads of its own."""

    name = "line"

    def __init__(self, engine, images, interval_s=0.002):
        self.images, self._interval_s = images, interval_s
        self.results, self._closed = [], threading.Event()
        last = partial(show, tally=Tally(), given=self.results.append)
        work = partial(inspect, parts_of(self), judges_of(engine, PREPROCESSING), ORIGIN, Queue(8), last)
        self._thread = threading.Thread(target=work)
        self._thread.start()

    def frames(self):
        number = 0
        while not self._closed.wait(self._interval_s):
            image = self.images[number % len(self.images)]
            yield Frame(f"{number}.png", datetime.now(timezone.utc), time.monotonic_ns(), image=image)
            number += 1

    def close(self):
        self._closed.set()

    def wait(self, more):
        goal = len(self.results) + more
        wait_until(lambda: len(self.results) >= goal)

    def end(self):
        """The results; each part has exactly one, in order, and whatever is known is right."""
        self.close()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert [result.sequence for result in self.results] == list(range(len(self.results)))
        right = golden_arrays(self.images)["raw_score"]
        for result in self.results:
            if result.verdict != "unknown":
                raw = right[result.sequence % len(right)]
                assert result.raw_score == pytest.approx(float(raw), rel=1e-5)
                assert result.verdict == ("pass" if raw <= THRESHOLD else "reject")
        return self.results
