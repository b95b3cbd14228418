"""set_roi: where in the frame a bundle looks; within limits, undone step by step, given up with the bundle."""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edge_agent.commands.effect import Effect, ended
from edge_agent.commands.memory import EARLIER, Kept
from edge_agent.commands.requests import Refusal, SetRoi
from edge_agent.config import CommandsConfig
from edge_agent.control import Control
from edge_agent.messages import Box, Commanded
from edge_agent.models.judge import Judge, Judges, Key, key_of, name_of

log = logging.getLogger(__name__)

ROIS = "rois"  # name of the kept value
ROUNDING = 1e-9

Size = tuple[int, int]  # width, height


class _Moved(NamedTuple):
    """The boxes of one judge, newest last; the first is the bundle's own (None)."""

    digest: str
    boxes: tuple[Box | None, ...]


class RoiOrders:
    """The crops that commands have set.

    Those that an earlier run kept hold again from the start; but with commands switched off the file alone counts, for
    nobody could undo anything else.
    """

    def __init__(self, config: CommandsConfig, judges: Judges, control: Control, kept: Mapping[str, bytes]):
        self._limits, self._judges, self._control = config.roi, judges, control
        self._sizes: dict[str, Size] = {}  # of the frames, by camera
        self._moved: dict[Key, _Moved] = {}
        for key, moved in _read(kept.get(ROIS)).items():
            judge = judges.all().get(key) if config.enabled else None
            if judge is None or judge.bundle.digest != moved.digest or self._too_far(key, judge, moved.boxes[-1]):
                log.warning(
                    "The crop that a command had set for %s is given up: its bundle serves no more, the limits of the "
                    "file have changed, or commands are switched off.",
                    name_of(key),
                )
                continue
            self._moved[key] = moved
            judges.switch(*key, judge.looking_at(moved.boxes[-1]))

    def note_frame(self, camera: str, size: Size) -> None:
        self._sizes[camera] = size

    def refuses(self, request: SetRoi) -> Refusal | None:
        arguments = request.arguments
        found = self._judges.of(arguments.product, arguments.camera)
        if len(found) != 1:
            return Refusal("unknown_camera", which(found, self._judges.all()))
        (key, judge), wanted = next(iter(found.items())), arguments.box
        if wanted is None:
            if key not in self._moved:
                return Refusal("nothing_to_undo", "No command has changed the crop.")
            return None
        if (size := self._sizes.get(key[1])) is None:
            return Refusal("no_frame", "No frame has come yet, so nobody knows what lies inside it.")
        x, y, width, height = wanted
        if x + width > size[0] or y + height > size[1]:
            return Refusal("out_of_range", f"{list(wanted)} reaches beyond the frame of {size[0]} x {size[1]} pixels.")
        if too_far := self._too_far(key, judge, wanted):
            return Refusal("out_of_range", too_far)
        return None

    def accept(self, request: SetRoi, about: Commanded) -> Effect:
        arguments = request.arguments
        key, judge = next(iter(self._judges.of(arguments.product, arguments.camera).items()))
        moved = self._moved.get(key, _Moved(judge.bundle.digest, (None,)))
        longer = (None, *(*moved.boxes[1:], arguments.box)[-EARLIER:])
        boxes = moved.boxes[:-1] if arguments.box is None else longer
        if len(boxes) > 1:
            self._moved[key] = moved._replace(boxes=boxes)
        else:
            self._moved.pop(key, None)
        change = {"roi": boxes[-1], "roi_before": moved.boxes[-1]}
        outcome = ended(about, None, f"The crop went from {_said(moved.boxes[-1])} to {_said(boxes[-1])}.")

        def begin() -> int:
            self._judges.switch(*key, judge.looking_at(boxes[-1]))
            return self._control.order()

        return Effect(begin, self.kept(), outcome.model_copy(update=change))

    def given_up(self, keys: Iterable[Key]) -> Kept:
        """Another bundle serves there: what was set for the one before holds no more."""
        for key in keys:
            self._moved.pop(key, None)
        return self.kept()

    def saved(self) -> Mapping[Key, _Moved]:
        """For `as_before`."""
        return dict(self._moved)

    def as_before(self, saved: Mapping[Key, _Moved]) -> Kept:
        """The bundles of that time serve again, with their crops."""
        self._moved = dict(saved)
        return self.kept()

    def _too_far(self, key: Key, judge: Judge, wanted: Box | None) -> str | None:
        """The limit that is exceeded, a sentence. A bundle without a crop of its own has the whole frame's."""
        own = judge.bundle.manifest.preprocessing.crop
        if own is None and (size := self._sizes.get(key[1])) is not None:
            own = (0, 0, *size)
        if own is None or wanted is None:
            return None
        limits = self._limits
        for axis, name in ((0, "width"), (1, "height")):
            shift = abs((wanted[axis] + wanted[axis + 2] / 2) - (own[axis] + own[axis + 2] / 2))
            if shift > limits.max_shift_px:
                return f"Its centre lies {shift:g} pixels from that of {list(own)}; {limits.max_shift_px} are allowed."
            scale = wanted[axis + 2] / own[axis + 2]
            if not limits.min_scale - ROUNDING <= scale <= limits.max_scale + ROUNDING:
                return (
                    f"Its {name} is {scale:.3g} times that of {list(own)}; {limits.min_scale:g} to "
                    f"{limits.max_scale:g} are allowed."
                )
        return None

    def kept(self) -> Kept:
        if not self._moved:
            return {ROIS: None}
        return {ROIS: json.dumps({name_of(key): moved for key, moved in self._moved.items()}).encode()}


def which(found: Mapping[Key, Judge], known: Mapping[Key, Judge]) -> str:
    """Why what was named is not one judge; names what could be."""
    names = ", ".join(sorted(name_of(key) for key in known))
    what = "Several judges are meant" if found else "No bundle judges that product under that camera"
    return f"{what}; here are {names} (a camera, or product/camera). Name `camera`, and `product` where there is one."


def _said(box: Box | None) -> str:
    return "the bundle's own" if box is None else str(list(box))


def _read(value: bytes | None) -> dict[Key, _Moved]:
    found: dict[Key, _Moved] = {}
    try:
        for name, (digest, boxes) in json.loads(value or b"{}").items():
            found[key_of(name)] = _Moved(str(digest), (None, *(_box(box) for box in boxes[1:])))
    except (ValueError, TypeError, AttributeError):  # another version's
        return {}
    return found


def _box(value: list[int]) -> Box:
    x, y, width, height = map(int, value)
    return x, y, width, height
