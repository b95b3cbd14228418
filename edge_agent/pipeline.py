"""The agent's whole way of one part: cameras and triggers -> preprocess -> engine -> decision -> outbox -> broker.

Four stages, each a thread that loops between two small bounded queues; None ends the stream. A full queue holds back
the stage before it, so nothing is dropped and nothing piles up.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from queue import Full, Queue

import numpy as np

from edge_agent import clock
from edge_agent.cameras import Frame
from edge_agent.commands.desk import CommandDesk
from edge_agent.control import Answer, Control
from edge_agent.decision import UnknownReason
from edge_agent.engine_state import EngineState
from edge_agent.engines import Scores
from edge_agent.health import Tally
from edge_agent.messages import Origin, Result, encode
from edge_agent.models.judge import Judge, Judges, UnknownProduct
from edge_agent.onlookers import Onlookers
from edge_agent.outbox import Message
from edge_agent.parts import Part
from edge_agent.parts.codes import CodeReader, Reading
from edge_agent.parts.inbox import TriggerInbox
from edge_agent.parts.source import PartCounts, PartSource
from edge_agent.pictures import Album, PictureError, encode_map
from edge_agent.preprocess import ImageError, prepare
from edge_agent.publisher import Publisher
from edge_agent.stages import Stage, Wake, run_stages, take_all
from edge_agent.verdict import Seen, result_of, too_late, view_of

log = logging.getLogger(__name__)

QUEUED_FRAMES = 4  # decoded and resized, waiting for the engine
QUEUED_VERDICTS = 32  # waiting for the disk: what a slow sync may take without stopping the engine
QUESTION_S = 30.0  # a question to the engine waits so long for a place among the parts
FAREWELL_S = 2.0  # for the last answers of the broker when the agent is told to stop


@dataclass(frozen=True, eq=False)
class Taken:
    """A camera's view of a part and its judge, ready for the engine; or why it isn't.

    One judge prepares, scores and decides it, whatever is switched meanwhile.
    """

    part: Part  # without its views, whose pixels may be many
    camera: str
    judge: Judge | None  # None: no bundle is for this product
    frame: Frame  # without its pixels
    size: tuple[int, int] | None  # width, height of the whole frame
    image: np.ndarray | None = None  # uint8 [height, width, 3] at model size
    reason: UnknownReason | None = None
    detail: str | None = None
    last: bool = True  # of the part's views
    code: Reading | None = None  # the part's id, where it is read in this frame
    held: np.ndarray | None = None  # the whole frame's pixels, where an onlooker may want them
    answer: Answer | None = None  # of a question to the engine, which is no part: it gets the scores, nobody else does


@dataclass(frozen=True, eq=False)
class Begun:
    """A part in the engine's hands, by its ticket; without one the engine was not asked, or would not take it."""

    taken: Taken
    ticket: int | None = None
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """What the engine made of it; no scores where it failed or was never asked."""

    taken: Taken
    scores: Scores | None = None
    reason: UnknownReason | None = None
    detail: str | None = None


@dataclass(frozen=True, eq=False)
class Decided:
    """The verdict, and the messages that carry it."""

    result: Result
    messages: tuple[Message, ...]
    no_code: bool = False  # the part's id was looked for in its frame, and not found


def take_parts(
    source: PartSource,
    taken: "Queue[Taken | None]",
    judges: Judges,
    control: Control | None = None,
    onlookers: Onlookers = Onlookers(),
    reader: CodeReader | None = None,
    reads: str | None = None,
) -> None:
    """Stage 1 of 4: PartSource -> Taken, one for each view. Gives each its judge, crops and resizes it for that.

    reader, reads: what reads parts' ids, and in the frames of which camera.
    """
    for part in source.parts():
        bare = replace(part, views={})
        if not part.views:
            nothing = Frame(part.id or str(part.sequence), part.at, part.ts_mono_ns, error=part.detail)
            judge, _ = _judge_of(judges, part.product, source.cameras[0])
            taken.put(Taken(bare, source.cameras[0], judge, nothing, None, reason=part.reason, detail=part.detail))
        elif control is not None:
            control.show(part.sequence, part.views)
        for number, (camera, frame) in enumerate(part.views.items(), 1):
            judge, trouble = _judge_of(judges, part.product, camera)
            if judge is not None and frame.image is not None:
                judges.show(judge, camera, part.sequence, frame.image)
            code = reader.begin(frame.image) if reader and camera == reads and frame.image is not None else None
            view = _prepare(bare, camera, frame, judge, onlookers, trouble)
            taken.put(replace(view, last=number == len(part.views), code=code))
    taken.put(None)


def score_frames(taken: "Queue[Taken | None]", scored: "Queue[Scored | None]", judges: Judges) -> None:
    """Stage 2 of 4: Taken -> Scored, in the same order, whoever judges. An engine that raises makes its part unknown
    and is asked again for the next.

    Where an engine has slots, the next part is copied while the one before executes; an answer never waits for a part
    that has not come yet.
    """
    failing, ended = False, False
    begun: deque[Begun] = deque()

    def hand_on() -> None:
        nonlocal failing
        answer = _finish(begun.popleft())
        if answer.taken.judge is not None:
            judges.release(answer.taken.judge)
        if answer.taken.answer is not None:
            answer.taken.answer(answer.scores, answer.detail)
            return
        if answer.reason == "engine_failed" and not failing:
            name = answer.taken.frame.name
            log.error("%s: the engine failed: %s Parts are unknown until it works again.", name, answer.detail)
        failing = answer.reason == "engine_failed" or (failing and answer.scores is None)
        scored.put(answer)

    while begun or not ended:
        if begun and (ended or taken.empty() or _full(begun)):
            hand_on()
        elif (part := taken.get()) is None:
            ended = True
        else:
            begun.append(_begin(part))
    scored.put(None)


def decide_parts(
    scored: "Queue[Scored | None]",
    decided: "Queue[Decided | Wake | None]",
    origin: Origin,
    *,
    control: Control,
    publish_maps: bool,
    album: Album | None,
    onlookers: Onlookers = Onlookers(),
) -> None:
    """Stage 3 of 4: Scored -> Decided. Gives the verdict and writes the messages; pictures rejects."""
    trouble: str | None = None
    seen: list[Scored] = []  # the views of a part
    while (scored_view := scored.get()) is not None:
        seen.append(scored_view)
        if not scored_view.taken.last:
            continue
        orders = control.take_up()
        limits = [orders.limit(of.taken.judge.model.digest) if of.taken.judge else orders.threshold for of in seen]
        views = [
            view_of(of.taken.camera, of.taken.judge, of.scores, of.taken.size, limit, of.reason, of.detail)
            for of, limit in zip(seen, limits, strict=True)
        ]
        code = next((of.taken.code for of in seen if of.taken.code is not None), None)
        part, no_code = scored_view.taken.part, False
        if code is not None:
            part = part.named(code.text())
            no_code = part.id is None
        result = result_of(part, views, origin, limits[0], paused=orders.paused, no_code=no_code)
        messages = [Message("result", origin.topics.of("result"), encode(result))]
        for of, view in zip(seen, views, strict=True):
            if result.verdict != "reject" or view.verdict != "reject" or of.scores is None or of.taken.image is None:
                continue
            anomaly_map = of.scores.anomaly_map[0]
            if publish_maps:
                topic = f"{origin.topics.under(view.camera).of('anomaly_map')}/{result.result_id}"
                messages.append(Message("image", topic, encode_map(anomaly_map)))
            if album is not None:
                try:
                    name = f"{result.result_id}.{view.camera}" if result.views else result.result_id
                    album.add(name, of.taken.image, anomaly_map)
                    trouble = None
                except PictureError as error:
                    if trouble is None:
                        log.error("%s Verdicts go on without pictures.", error)
                    trouble = str(error)
        decided.put(Decided(result, tuple(messages), no_code))
        control.hand_on()
        for of, view, limit in zip(seen, views, limits, strict=True):  # after the verdict is on its way
            if (judge := of.taken.judge) is None:
                continue
            verdict = view.verdict if result.views and not orders.paused else result.verdict
            about = Seen(view.camera, verdict, view.image_score, limit, judge.model)
            onlookers.see(result, about, judge.preprocessing, of.taken.image, of.taken.held)
        seen = []
    decided.put(None)


def deliver(
    decided: "Queue[Decided | Wake | None]",
    publisher: Publisher,
    origin: Origin,
    tally: Tally,
    given: Callable[[Result], None],
    *,
    health_interval_s: float,
    drain_timeout_s: float,
    stopping: threading.Event,
    engine_state: EngineState | None = None,
    beat: Callable[[], None] = lambda: None,
    desk: CommandDesk | None = None,
    onlookers: Onlookers = Onlookers(),
    count_parts: Callable[[], PartCounts] = PartCounts,
    triggers: TriggerInbox | None = None,
) -> None:
    """Stage 4 of 4: Decided -> outbox -> broker. All that waits becomes durable in one sync; then it is given.

    beat: called every second or so, as long as this stage is alive. desk: what remote commands are answered by.
    count_parts: of their source. triggers: whose refusals are told.
    """
    engine_state = engine_state or EngineState()
    health_due = time.monotonic() + health_interval_s
    ended = False
    while not ended:
        beat()
        settled = desk.settled() if desk else ()  # before: verdicts under older orders go into the outbox first
        items = take_all(decided, publisher.wait_s)
        parts = [item for item in items if isinstance(item, Decided)]
        publisher.store([message for part in parts for message in part.messages])
        for part in parts:
            tally.count(part.result, no_code=part.no_code)
            given(part.result)
            if desk is not None:
                desk.note(part.result)
        changed, events = engine_state.take()
        publisher.raise_events(events)
        if desk is not None:
            changed = desk.attend(settled) or changed
        publisher.send()
        if changed:
            publisher.announce_online()
        if time.monotonic() >= health_due:
            health_due = time.monotonic() + health_interval_s
            publisher.report_evicted()
            if triggers is not None:
                triggers.report()
            health = tally.health(
                origin,
                publisher.outbox,
                engine_restarts=engine_state.restarts,
                commands_refused=desk.refused if desk else 0,
                spool=onlookers.spool_state,
                drift=onlookers.drift_state,
                parts=count_parts(),
                triggers_refused=triggers.refused if triggers else 0,
            )
            publisher.tell(origin.topics.of("health"), encode(health))
        ended = None in items
    if desk is not None:
        desk.close()
    if triggers is not None:
        triggers.report(at_once=True)
    publisher.raise_events(engine_state.take()[1])
    publisher.report_evicted()
    deadline = time.monotonic() + drain_timeout_s
    while publisher.left and time.monotonic() < deadline and not stopping.is_set() and not publisher.hopeless:
        beat()
        publisher.send()
        take_all(decided, publisher.wait_s)
        publisher.store([], urgent=True)
    publisher.announce_stopped()
    deadline = time.monotonic() + FAREWELL_S
    while publisher.unanswered and time.monotonic() < deadline:
        take_all(decided, 0.1)
        publisher.store([], urgent=True)


def show(decided: "Queue[Decided | Wake | None]", tally: Tally, given: Callable[[Result], None]) -> None:
    """Stage 4 of a dry run: nothing is stored, nothing is published."""
    while (item := decided.get()) is not None:
        if isinstance(item, Decided):
            tally.count(item.result, no_code=item.no_code)
            given(item.result)


def inspect(
    source: PartSource,
    judges: Judges,
    origin: Origin,
    decided: "Queue[Decided | Wake | None]",
    last_stage: Callable[["Queue[Decided | Wake | None]"], None],
    *,
    threshold: float = 1.0,
    control: Control | None = None,
    publish_maps: bool = True,
    album: Album | None = None,
    onlookers: Onlookers = Onlookers(),
    reader: CodeReader | None = None,
    reads: str | None = None,
) -> None:
    """Run the four stages until the source of parts ends or is closed. StageError where one of them broke down.

    `last_stage` is `deliver` or `show` with the rest of its arguments; `decided` is made by the caller, who wakes it.
    control: changes the threshold, and more, while the line runs; without one the threshold stays as it is.
    """
    taken: Queue[Taken | None] = Queue(QUEUED_FRAMES)
    scored: Queue[Scored | None] = Queue(QUEUED_FRAMES)
    control = control or Control(threshold)
    control.connect(partial(_pose, taken, judges))
    take_all_parts = partial(take_parts, control=control, onlookers=onlookers, reader=reader, reads=reads)
    decide_all = partial(decide_parts, control=control, publish_maps=publish_maps, album=album, onlookers=onlookers)
    run_stages(
        [
            Stage("camera", lambda: take_all_parts(source, taken, judges), None, taken),
            Stage("engine", lambda: score_frames(taken, scored, judges), taken, scored),
            Stage("decision", lambda: decide_all(scored, decided, origin), scored, decided),
            Stage("delivery", lambda: last_stage(decided), decided, None),
        ],
        stop=source.close,
    )


def _pose(taken: "Queue[Taken | None]", judges: Judges, judge: Judge, image: np.ndarray, answer: Answer) -> None:
    """A question to a judge's engine, queued like a part."""
    now = time.monotonic_ns()
    judges.hold(judge)
    try:
        part = Part(-1, clock.utc(), now, {}, id="a question")
        taken.put(Taken(part, "", judge, Frame("", part.at, now), None, image[0], answer=answer), timeout=QUESTION_S)
    except Full:
        judges.release(judge)
        answer(None, f"The engine took no question within {QUESTION_S:g} s.")


def _full(begun: Sequence[Begun]) -> bool:
    """Has the engine of the newest part no slot left? A part without a ticket stands in a slot's place."""
    judge = begun[-1].taken.judge
    if judge is None:
        return True
    return sum(each.taken.judge is not None and each.taken.judge.engine is judge.engine for each in begun) >= (
        judge.engine.slots
    )


def _begin(view: Taken) -> Begun:
    if view.image is None or view.judge is None:
        return Begun(view)
    if view.answer is None and (late := _late(view.part)) is not None:
        return Begun(replace(view, reason="late", detail=late))
    try:
        return Begun(view, view.judge.engine.submit(view.image[None]))
    except Exception as error:
        return Begun(view, error=str(error))


def _finish(view: Begun) -> Scored:
    taken = view.taken
    if view.ticket is None or taken.judge is None:
        reason: UnknownReason | None = taken.reason if view.error is None else "engine_failed"
        return Scored(taken, None, reason, taken.detail if view.error is None else view.error)
    try:
        return Scored(taken, taken.judge.engine.collect(view.ticket))
    except Exception as error:
        return Scored(taken, None, "engine_failed", str(error))


def _judge_of(judges: Judges, product: str | None, camera: str) -> tuple[Judge | None, str | None]:
    """Who judges, or the sentence why nobody does."""
    try:
        return judges.take(product, camera), None
    except UnknownProduct as error:
        return None, str(error)


def _late(part: Part) -> str | None:
    """The sentence why its verdict would come too late; a part that is late anyway needs no engine."""
    now_ns = time.monotonic_ns()
    return too_late(part, now_ns) if part.due_ns is not None and now_ns > part.due_ns else None


def _prepare(
    part: Part,
    camera: str,
    frame: Frame,
    judge: Judge | None,
    onlookers: Onlookers = Onlookers(),
    trouble: str | None = None,
) -> Taken:
    """trouble: why there is no judge."""
    size = None if frame.image is None else (frame.image.shape[1], frame.image.shape[0])
    slim = replace(frame, image=None)
    view = Taken(part, camera, judge, slim, size)
    if judge is None:
        return replace(view, reason="product", detail=trouble)
    if frame.image is None:
        return replace(view, reason=frame.reason or "no_frame", detail=frame.error)
    if (late := _late(part)) is not None:
        return replace(view, reason="late", detail=late)
    try:
        image = prepare(frame.image, judge.preprocessing)
        return replace(view, image=image, held=onlookers.hold(frame.image))
    except ImageError as error:
        return replace(view, reason="wrong_size", detail=str(error))
