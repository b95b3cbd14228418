"""reload_model and rollback: from the command to another bundle in service, and back where it fails its first parts.

A change is made durable in the record, then in the line, then it is told: after a power cut at any moment one of the
two bundles serves, and the last answer says which.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent import clock
from edge_agent.bundle import Bundle
from edge_agent.commands.effect import Effect, Finished, ended
from edge_agent.commands.memory import Kept, Standing
from edge_agent.commands.orders import Orders
from edge_agent.commands.requests import Command, Refusal, ReloadModel, Rollback
from edge_agent.commands.roi import RoiOrders, which
from edge_agent.messages import Commanded, Event, EventName, Model, Origin, Result, Severity, View, encode
from edge_agent.messages import Compared as ComparedParts
from edge_agent.models.boot import Register
from edge_agent.models.change import Change, Ready, TurnedDown
from edge_agent.models.judge import Judge, Judges, Key
from edge_agent.models.probation import Probation
from edge_agent.models.record import Entry, RecordError, Served
from edge_agent.models.settings import ModelsConfig
from edge_agent.models.shadow import Compared, Shadow
from edge_agent.models.shelf import NotOnTheShelf, Shelf
from edge_agent.outbox import Message

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workshop:
    """What a change of model needs of the agent. threshold: the file's."""

    config: ModelsConfig
    threshold: float
    shelf: Shelf
    register: Register
    appoint: Callable[[Bundle, threading.Event], Judge]


class _Under(NamedTuple):
    """A change that is being made."""

    request: ReloadModel | Rollback
    about: Commanded
    before: dict[Key, Judge]
    change: Change


class _Watched(NamedTuple):
    """The first parts after a switch; the judges before are kept at hand, and so are the orders that they had."""

    probation: Probation
    judge: Judge
    before: Mapping[Key, Judge]
    standing: Standing
    rois: Mapping[Key, Any]


class ModelOrders:
    """One change at a time. finish: takes the end of a command, in the thread that calls `attend`."""

    def __init__(
        self,
        workshop: Workshop,
        judges: Judges,
        orders: Orders,
        rois: RoiOrders,
        origin: Origin,
        finish: Callable[[Finished], None],
        store: Callable[[list[Message], Kept], None],
        *,
        wake: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._shop, self._judges, self._orders, self._rois, self._origin = workshop, judges, orders, rois, origin
        self._finish, self._store, self._wake, self._monotonic = finish, store, wake, monotonic
        self._under: _Under | None = None
        self._shadow: Shadow | None = None
        self._watched: _Watched | None = None
        self._sizes: dict[str, tuple[int, int]] = {}  # of the frames, by camera

    def refuses(self, request: Command) -> Refusal | None:
        if not isinstance(request, ReloadModel | Rollback):
            return None
        if self._under is not None:
            return Refusal("busy", f"Another {self._under.request.command} is being carried out.")
        arguments = request.arguments
        found = self._judges.of(arguments.product, arguments.camera)
        if len({judge.bundle.digest for judge in found.values()}) != 1:
            return Refusal("unknown_camera", which(found, self._judges.all()))
        if isinstance(request, Rollback):
            if self._earlier(found) is None:
                return Refusal("nothing_to_undo", "No other bundle has served here before.")
        elif request.arguments.path is not None:
            try:
                self._shop.shelf.place(request.arguments.path)
            except NotOnTheShelf as error:
                return Refusal("unknown_bundle", str(error))
        return None

    def accept(self, request: ReloadModel | Rollback, about: Commanded) -> Effect:
        return Effect(lambda: self._begin(request, about))

    def note(self, result: Result) -> None:
        """A verdict that is durable."""
        for camera, view in _views(result):
            if view.image is not None:
                self._sizes[camera] = (view.image.width, view.image.height)
                self._rois.note_frame(camera, self._sizes[camera])
            if view.model is None:
                continue
            if (shadow := self._shadow) is not None:
                shadow.note(camera, result.sequence, view.model.digest, view.verdict)
            if self._watched is not None:
                self._watched.probation.note(view.model.digest, view.reason, view.image is not None)

    def attend(self) -> None:
        """Switch, where a change is ready; switch back, where the new bundle fails; tell what came of it."""
        if (under := self._under) is not None and (outcome := under.change.outcome) is not None:
            self._under = self._shadow = None
            if isinstance(outcome, Ready):
                self._switch(under, outcome)
            else:
                self._turn_down(under, outcome)
        if (watched := self._watched) is not None:
            if watched.probation.failed:
                self._switch_back(watched)
            elif watched.probation.over:
                self._dismiss()

    def ended_as(self, command_id: str, about: Commanded) -> Commanded | None:
        """How a command ended whose end an earlier run did not tell: None where it never happened."""
        for key, entry in self._shop.register.record.entries.items():
            if entry.command_id == command_id:
                judge = self._judges.all().get(key)
                if judge is None or judge.bundle.digest != entry.serving.digest:
                    return None
                text = f"{_named(judge.model)} serves."
                return ended(about, None, text).model_copy(update={"model": judge.model})
        return None

    def close(self) -> None:
        """The line has ended: the change is given up, the bundle before stays the one of the record."""
        if self._under is not None:
            self._under.change.cancel()
            self._under = self._shadow = None
        self._dismiss()

    # A change, from its beginning to its end

    def _begin(self, request: ReloadModel | Rollback, about: Commanded) -> None:
        before = self._judges.of(request.arguments.product, request.arguments.camera)
        shop, watched = self._shop, self._watched
        warm: Judge | None = None
        if isinstance(request, Rollback):
            target = self._earlier(before)
            assert target is not None
            find: Callable[[], Path] = lambda: Path(target.folder)  # noqa: E731
            kept = () if watched is None else watched.before.values()
            warm = next((judge for judge in kept if judge.bundle.digest == target.digest), None)
        else:
            find = self._finder(request, next(iter(before.values())).model.name)
        old = next(iter(before.values()))
        change = Change(
            find,
            shop.shelf.open if warm is None else lambda folder: warm.bundle,
            lambda bundle: self._objection(bundle, request, before),
            shop.appoint if warm is None else lambda bundle, closing: warm.looking_at(None),
            lambda judge: self._trial(request, judge, old),
            self._judges,
            shadow_timeout_s=shop.config.shadow_timeout_s,
            wake=self._wake,
        )
        self._under = _Under(request, about, before, change)

    def _finder(self, request: ReloadModel, product: str) -> Callable[[], Path]:
        path, version = request.arguments.path, request.arguments.version
        if path is not None:
            return lambda: self._shop.shelf.place(path)
        assert version is not None
        return lambda: self._shop.shelf.version(product, version)

    def _objection(
        self, bundle: Bundle, request: ReloadModel | Rollback, before: Mapping[Key, Judge]
    ) -> TurnedDown | None:
        """Why this bundle must not serve, though it is whole; None: it may. In the change's thread."""
        manifest, old = bundle.manifest, next(iter(before.values())).model
        if isinstance(request, Rollback):
            target = self._earlier(before)
            if target is None or target.digest != bundle.digest:
                return TurnedDown(
                    "bad_bundle", f"{bundle.folder} is not the bundle that served: it was replaced since."
                )
        elif manifest.name != old.name:
            return TurnedDown("wrong_product", f"It is a bundle of {manifest.name}; {old.name} is what is judged here.")
        elif manifest.version <= (newest := max(old.version, *(self._floors(before, old.name)))):
            at = f"version {manifest.version}, and version {newest} has served here"
            return TurnedDown(
                "not_newer", f"It is {at}. Only rollback goes back; or export it under a higher --version."
            )
        for _, camera in before:
            crop, size = manifest.preprocessing.crop, self._sizes.get(camera)
            if crop is not None and size is not None and (crop[0] + crop[2] > size[0] or crop[1] + crop[3] > size[1]):
                text = f"Its crop {list(crop)} reaches beyond the frame of {size[0]} x {size[1]} pixels of {camera}."
                return TurnedDown("bad_bundle", text)
        return None

    def _floors(self, keys: Mapping[Key, Judge], name: str) -> list[int]:
        entries = [self._shop.register.get(key) for key in keys]
        return [0, *(entry.floor.get(name, 0) for entry in entries if entry is not None)]

    def _trial(self, request: ReloadModel | Rollback, judge: Judge, old: Judge) -> Shadow | TurnedDown | None:
        """What a judge with a proved engine has to pass yet. In the change's thread."""
        config = self._shop.config
        if isinstance(request, Rollback):
            return None
        now, then = judge.status, old.status
        if now is not None and now.fallback and then is not None and not then.fallback:
            why = " ".join(each.reason for each in now.refused)
            return TurnedDown("not_proved", f"Only {now.name} could serve it, where {then.name} serves now. {why}")
        parts = max(request.arguments.shadow_parts, config.shadow_parts)
        if not parts:
            return None
        self._shadow = Shadow(
            judge, old.bundle.digest, threshold=self._shop.threshold, parts=parts, max_flip_rate=config.max_flip_rate
        )
        return self._shadow

    def _switch(self, under: _Under, ready: Ready) -> None:
        """The record first: what it says is what serves after a power cut. Then the line; then it is told."""
        new, old, config = ready.judge, next(iter(under.before.values())), self._shop.config
        rollback = isinstance(under.request, Rollback)
        try:
            self._shop.register.change(self._entries(under.before, new.bundle, under.about.command_id, rollback))
        except RecordError as error:
            self._close_unless_kept(new)
            self._turn_down(under, TurnedDown("not_written", str(error), ready.compared))
            return
        standing, rois = self._orders.standing, self._rois.saved()
        if not rollback and config.probation_parts:
            self._keep_at_hand(_Watched(self._probation(new), new, under.before, standing, rois))
        digests = self._digests_with(dict.fromkeys(under.before, new))
        gone = None if old.bundle.digest in digests else old.bundle.digest
        kept = self._orders.for_another_bundle(self._shop.threshold, bundle=digests[0], gone=gone)
        kept |= self._rois.given_up(under.before)
        self._put_in_service(dict.fromkeys(under.before, new))
        if self._watched is not None and self._watched.judge is not new:
            self._dismiss()
        text = f"{_named(new.model)} judges instead of {_named(old.model)}{_compared(ready.compared)}."
        outcome = ended(under.about, None, text).model_copy(
            update={"model": new.model, "model_before": old.model, "compared": _counted(ready.compared)}
        )
        event = self._event("model_changed", "info", text, _counts(ready.compared))
        self._finish(Finished(str(under.about.command_id), outcome, (event,), kept))

    def _digests_with(self, changes: Mapping[Key, Judge]) -> list[str]:
        """Of all bundles that serve after these changes, the first one first."""
        return [judge.bundle.digest for judge in {**self._judges.all(), **changes}.values()]

    def _turn_down(self, under: _Under, why: TurnedDown) -> None:
        old = next(iter(under.before.values())).model
        text = f"{why.detail} {_named(old)} serves on."
        outcome = ended(under.about, why.reason, text).model_copy(
            update={"model": old, "compared": _counted(why.compared)}
        )
        message = f"{under.about.command} was given up ({why.reason}): {text}"
        event = self._event("model_refused", "warning", message, _counts(why.compared))
        log.error("%s", message)
        self._finish(Finished(str(under.about.command_id), outcome, (event,)))

    def _switch_back(self, watched: _Watched) -> None:
        """The bundle before is still at hand: it judges the next part."""
        old = next(iter(watched.before.values()))
        text = f"{_named(watched.judge.model)}: {watched.probation}. {_named(old.model)} judges again."
        try:
            self._shop.register.change(self._entries(watched.before, old.bundle, None, rollback=True))
        except RecordError as error:  # the line matters more
            text = f"{text} {error} The next start will try {_named(watched.judge.model)} once more."
        failed = watched.judge.bundle.digest
        kept = self._orders.as_before(
            watched.standing, gone=None if failed in self._digests_with(watched.before) else failed
        )
        kept |= self._rois.as_before(watched.rois)
        self._put_in_service(watched.before)
        failures = {f"failed_{reason}": count for reason, count in watched.probation.failures.items()}
        event = self._event("model_rolled_back", "alarm", text, {"parts": watched.probation.watched, **failures})
        log.error("%s", text)
        self._store([event], kept)
        self._dismiss()

    def _entries(
        self, keys: Mapping[Key, Judge], bundle: Bundle, command_id: str | None, rollback: bool
    ) -> dict[Key, Entry]:
        entries = {}
        for key, judge in keys.items():
            served = Served.of(judge.bundle)
            entry = self._shop.register.get(key) or Entry(serving=served, configured=served)
            entries[key] = entry.rolled_back(bundle, command_id) if rollback else entry.with_new(bundle, command_id)
        return entries

    def _earlier(self, judges: Mapping[Key, Judge]) -> Served | None:
        """What a rollback goes to: the last bundle that served before, and isn't serving now."""
        for key, judge in judges.items():
            entry = self._shop.register.get(key)
            for served in reversed([] if entry is None else [*entry.earlier, entry.serving]):
                if served.digest != judge.bundle.digest:
                    return served
        return None

    # The line

    def _put_in_service(self, judges: Mapping[Key, Judge]) -> None:
        before = self._judges.all()
        self._judges.switch_all(judges)
        serving = {id(judge.voice) for judge in self._judges.all().values()}
        for key in judges:
            if (voice := before[key].voice) is not None and id(voice) not in serving:
                voice.be_silent()
        for judge in {id(judge.engine): judge for judge in judges.values()}.values():
            if judge.voice is not None:
                judge.voice.speak()

    def _probation(self, new: Judge) -> Probation:
        config = self._shop.config
        return Probation(
            new.bundle.digest,
            parts=config.probation_parts,
            seconds=config.probation_s,
            most=config.max_failed_parts,
            monotonic=self._monotonic,
        )

    def _keep_at_hand(self, watched: _Watched) -> None:
        self._dismiss()
        for judge in watched.before.values():
            self._judges.hold(judge)
        self._watched = watched

    def _dismiss(self) -> None:
        """The probation is over: the judges before may end."""
        watched, self._watched = self._watched, None
        if watched is not None:
            for judge in watched.before.values():
                self._judges.release(judge)

    def _close_unless_kept(self, judge: Judge) -> None:
        kept = () if self._watched is None else self._watched.before.values()
        if all(judge.engine is not each.engine for each in kept):
            judge.engine.close()

    def _event(self, name: EventName, severity: Severity, text: str, counts: dict[str, int]) -> Message:
        ids = self._origin.ids()
        event = Event(**ids, ts=clock.now(), event=name, severity=severity, message=text, counts=counts)
        return Message("event", self._origin.topics.of("event"), encode(event))


def _views(result: Result) -> Iterator[tuple[str, Result | View]]:
    """What each camera's bundle said."""
    if result.views:
        yield from ((view.camera, view) for view in result.views)
    else:
        yield result.camera, result


def _named(model: Model) -> str:
    return f"{model.name} version {model.version}"


def _compared(compared: Compared | None) -> str:
    if compared is None:
        return ""
    return f", after {compared.parts} parts that both scored, with {compared.flips} other verdicts"


def _counted(compared: Compared | None) -> ComparedParts | None:
    return None if compared is None else ComparedParts(**vars(compared))


def _counts(compared: Compared | None) -> dict[str, int]:
    return {} if compared is None else {"shadow_parts": compared.parts, "verdict_flips": compared.flips}
