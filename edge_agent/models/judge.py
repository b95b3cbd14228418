"""Who judges a part: one bundle on its engine. Exchanged between two parts, closed after the last one it was given."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from edge_agent.bundle import Bundle
from edge_agent.engine_state import Voice
from edge_agent.engines import Engine, Slotted, as_slotted
from edge_agent.engines.status import Status
from edge_agent.messages import Model
from edge_agent.preprocess import Preprocessing

log = logging.getLogger(__name__)

Crop = tuple[int, int, int, int]  # x, y, width, height in pixels of the upright frame
Key = tuple[str | None, str]  # product (None: the agent's `bundle`), camera

CLOSING_S = 30.0  # an engine may take so long to end


class UnknownProduct(KeyError):
    """No bundle judges this product under this camera."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, eq=False)
class Judge:
    """A bundle with the engine that runs it, and where in the frame it looks. Several may share an engine."""

    bundle: Bundle
    engine: Slotted
    model: Model
    preprocessing: Preprocessing  # with the crop in force
    roi: Crop | None = None  # the crop that a command has set; None: the bundle's own
    voice: Voice | None = None  # of its engine's keeper

    @classmethod
    def of(cls, bundle: Bundle, engine: Engine, voice: Voice | None = None) -> "Judge":
        manifest = bundle.manifest
        model = Model(name=manifest.name, version=manifest.version, digest=bundle.digest, system=manifest.system)
        return cls(bundle, as_slotted(engine), model, manifest.preprocessing, voice=voice)

    @property
    def status(self) -> Status | None:
        """Of its engine, as the keeper says."""
        return None if self.voice is None else self.voice.status

    def looking_at(self, roi: Crop | None) -> "Judge":
        """The same judge on the same engine with another crop; None: the bundle's own."""
        own = self.bundle.manifest.preprocessing
        return replace(self, roi=roi, preprocessing=own if roi is None else own.model_copy(update={"crop": roi}))


class Shadow(Protocol):
    """What a trial wants to see of the line."""

    def show(self, judge: Judge, camera: str, sequence: int, image: np.ndarray) -> None: ...


class Judges:
    """The judges of one agent, by product and camera; for any thread.

    A judge is held for each part it was given, from `take` to `release`. An engine that serves nobody any more is
    closed when its last part is released, by a thread of its own: nothing waits for it.
    """

    def __init__(self, judges: Mapping[Key, Judge]):
        self._lock = threading.Lock()
        self._judges = dict(judges)
        self._held: Counter[int] = Counter()  # parts out, by the id of their engine
        self._leaving: dict[int, Slotted] = {}  # engines that get no new part
        self._closers: list[threading.Thread] = []
        self.shadow: Shadow | None = None  # scores parts beside a judge, and has no say

    def in_service(self, product: str | None, camera: str) -> Judge:
        """Who judges the next part. UnknownProduct where there is none."""
        with self._lock:
            return self._find(product, camera)

    def take(self, product: str | None, camera: str) -> Judge:
        """Who judges this part; to be released when its scores are there. UnknownProduct where there is none."""
        with self._lock:
            judge = self._find(product, camera)
            self._held[id(judge.engine)] += 1
            return judge

    def hold(self, judge: Judge) -> None:
        """As `take`, for another part of a judge that is being held."""
        with self._lock:
            self._held[id(judge.engine)] += 1

    def release(self, judge: Judge) -> None:
        """The engine has nothing more to do for this part."""
        with self._lock:
            self._held[id(judge.engine)] -= 1
            self._close_idle()

    def switch(self, product: str | None, camera: str, new: Judge) -> None:
        """`new` judges from the next part on; parts that were taken before are still judged by the old one."""
        self.switch_all({(product, camera): new})

    def switch_all(self, changes: Mapping[Key, Judge]) -> None:
        """As `switch`, of several at one moment."""
        with self._lock:
            before = [self._judges[key].engine for key in changes if key in self._judges]
            self._judges.update(changes)
            serving = {id(judge.engine) for judge in self._judges.values()}
            leaving = self._leaving | {id(engine): engine for engine in before}
            self._leaving = {key: engine for key, engine in leaving.items() if key not in serving}
            self._close_idle()

    def of(self, product: str | None, camera: str | None) -> dict[Key, Judge]:
        """Who judges this product now, under this camera or (None) under all that know it."""
        with self._lock:
            judges = self._judges.items()
            return {key: judge for key, judge in judges if key[0] == product and camera in (None, key[1])}

    def all(self) -> dict[Key, Judge]:
        """Who judges now."""
        with self._lock:
            return dict(self._judges)

    @property
    def rois(self) -> dict[str, Crop]:
        """The crops that commands have set: by camera, or product/camera."""
        return {name_of(key): judge.roi for key, judge in self.all().items() if judge.roi is not None}

    def show(self, judge: Judge, camera: str, sequence: int, image: np.ndarray) -> None:
        """To whom it may concern: the frame that `judge` is about to get, uint8 [h, w, 3]. Returns at once."""
        if (shadow := self.shadow) is not None:
            shadow.show(judge, camera, sequence, image)

    def close(self) -> None:
        """End all engines, at once."""
        with self._lock:
            left = {id(judge.engine): judge.engine for judge in self._judges.values()} | self._leaving
            self._judges, self._leaving = {}, {}
        for engine in left.values():
            _close(engine)
        for thread in self._closers:
            thread.join(CLOSING_S)

    def _find(self, product: str | None, camera: str) -> Judge:
        try:
            return self._judges[product, camera]
        except KeyError:
            what = "a part without a product" if product is None else f"the product {product}"
            raise UnknownProduct(f"No bundle judges {what} under the camera {camera}.") from None

    def _close_idle(self) -> None:
        """With the lock held."""
        for key in [key for key in self._leaving if not self._held[key]]:
            thread = threading.Thread(target=_close, args=(self._leaving.pop(key),), name="engine end", daemon=True)
            self._closers = [each for each in self._closers if each.is_alive()] + [thread]
            thread.start()


def name_of(key: Key) -> str:
    """`camera`, or `product/camera`: neither holds a slash."""
    product, camera = key
    return camera if product is None else f"{product}/{camera}"


def key_of(name: str) -> Key:
    product, slash, camera = name.rpartition("/")
    return (product if slash else None, camera)


def _close(engine: Slotted) -> None:
    try:
        engine.close()
    except Exception as error:
        log.error("The engine %s did not end well: %s", engine.name, error)
