"""The agent's whole way of one part: camera -> preprocess -> engine -> decision -> outbox -> broker.

Four stages, each a thread that loops between two small bounded queues; None ends the stream. A full queue holds back
the stage before it, so nothing is dropped and nothing piles up.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from queue import Full, Queue

import numpy as np

from edge_agent import clock
from edge_agent.cameras import Camera, Frame
from edge_agent.commands.desk import CommandDesk
from edge_agent.control import Answer, Control
from edge_agent.decision import UnknownReason, decide, unknown
from edge_agent.engine_state import EngineState
from edge_agent.engines import Scores
from edge_agent.health import Tally
from edge_agent.messages import ImageSize, Origin, RegionOfResult, Result, encode
from edge_agent.models.judge import Judge, Judges
from edge_agent.onlookers import Onlookers
from edge_agent.outbox import Message
from edge_agent.pictures import Album, PictureError, encode_map
from edge_agent.preprocess import ImageError, prepare
from edge_agent.publisher import Publisher
from edge_agent.stages import Stage, Wake, run_stages, take_all

log = logging.getLogger(__name__)

QUEUED_FRAMES = 4  # decoded and resized, waiting for the engine
QUEUED_VERDICTS = 32  # waiting for the disk: what a slow sync may take without stopping the engine
QUESTION_S = 30.0  # a question to the engine waits so long for a place among the parts
FAREWELL_S = 2.0  # for the last answers of the broker when the agent is told to stop


@dataclass(frozen=True, eq=False)
class Taken:
    """A frame with its place in the camera's sequence and its judge, ready for the engine; or why it isn't.

    One judge prepares, scores and decides it, whatever is switched meanwhile.
    """

    sequence: int
    judge: Judge
    frame: Frame  # without its pixels, which may be many
    size: tuple[int, int] | None  # width, height of the whole frame
    image: np.ndarray | None = None  # uint8 [height, width, 3] at model size
    reason: UnknownReason | None = None
    detail: str | None = None
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


def take_frames(
    camera: Camera,
    taken: "Queue[Taken | None]",
    judges: Judges,
    name: str,
    control: Control | None = None,
    onlookers: Onlookers = Onlookers(),
) -> None:
    """Stage 1 of 4: Camera -> Taken. Numbers the frames, gives each its judge, crops and resizes them for it.

    name: the camera's, as `judges` knows it.
    """
    for sequence, frame in enumerate(camera.frames()):
        if control is not None:
            control.show(sequence, frame)
        judge = judges.take(None, name)
        if frame.image is not None:
            judges.show(judge, name, sequence, frame.image)
        taken.put(_prepare(sequence, frame, judge, onlookers))
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
    while (part := scored.get()) is not None:
        orders = control.take_up()
        if orders.paused:
            part = Scored(part.taken, None, "paused", "A command has paused the agent; `resume` ends it.")
        result = judge(part, origin, orders.limit(part.taken.judge.model.digest))
        messages = [Message("result", origin.topics.of("result"), encode(result))]
        if result.verdict == "reject" and part.scores is not None and part.taken.image is not None:
            anomaly_map = part.scores.anomaly_map[0]
            if publish_maps:
                topic = f"{origin.topics.of('anomaly_map')}/{result.result_id}"
                messages.append(Message("image", topic, encode_map(anomaly_map)))
            if album is not None:
                try:
                    album.add(result.result_id, part.taken.image, anomaly_map)
                    trouble = None
                except PictureError as error:
                    if trouble is None:
                        log.error("%s Verdicts go on without pictures.", error)
                    trouble = str(error)
        decided.put(Decided(result, tuple(messages)))
        control.hand_on()
        taken = part.taken  # after the verdict is on its way
        onlookers.see(result, result, taken.judge.preprocessing, taken.image, taken.held)
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
) -> None:
    """Stage 4 of 4: Decided -> outbox -> broker. All that waits becomes durable in one sync; then it is given.

    beat: called every second or so, as long as this stage is alive. desk: what remote commands are answered by.
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
            tally.count(part.result)
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
            health = tally.health(
                origin,
                publisher.outbox,
                engine_restarts=engine_state.restarts,
                commands_refused=desk.refused if desk else 0,
                spool=onlookers.spool_state,
                drift=onlookers.drift_state,
            )
            publisher.tell(origin.topics.of("health"), encode(health))
        ended = None in items
    if desk is not None:
        desk.close()
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
            tally.count(item.result)
            given(item.result)


def inspect(
    camera: Camera,
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
) -> None:
    """Run the four stages until the camera ends or is closed. StageError where one of them broke down.

    `last_stage` is `deliver` or `show` with the rest of its arguments; `decided` is made by the caller, who wakes it.
    control: changes the threshold, and more, while the line runs; without one the threshold stays as it is.
    """
    taken: Queue[Taken | None] = Queue(QUEUED_FRAMES)
    scored: Queue[Scored | None] = Queue(QUEUED_FRAMES)
    control = control or Control(threshold)
    control.connect(partial(_pose, taken, judges))
    decide_all = partial(decide_parts, control=control, publish_maps=publish_maps, album=album, onlookers=onlookers)
    run_stages(
        [
            Stage("camera", lambda: take_frames(camera, taken, judges, origin.camera, control, onlookers), None, taken),
            Stage("engine", lambda: score_frames(taken, scored, judges), taken, scored),
            Stage("decision", lambda: decide_all(scored, decided, origin), scored, decided),
            Stage("delivery", lambda: last_stage(decided), decided, None),
        ],
        stop=camera.close,
    )


def judge(part: Scored, origin: Origin, threshold: float) -> Result:
    """The result message of one part; whatever went wrong before is `unknown` here."""
    taken, scores = part.taken, part.scores
    if scores is None:
        decision = unknown(part.reason or "engine_failed")
    else:
        decision = decide(scores, threshold, preprocessing=taken.judge.preprocessing, frame_size=taken.size)
    sound = scores is not None and decision.verdict != "unknown"
    return Result(
        **origin.ids(),
        result_id=origin.result_id(taken.sequence),
        sequence=taken.sequence,
        part=taken.frame.name,
        ts=clock.rfc3339(taken.frame.captured_at),
        ts_mono_ns=taken.frame.ts_mono_ns,
        time_sync=clock.time_sync(),
        verdict=decision.verdict,
        reason=decision.reason,
        detail=part.detail,
        image_score=float(scores.image_score[0]) if sound and scores else None,
        threshold=threshold,
        raw_score=float(scores.raw_score[0]) if sound and scores else None,
        model=taken.judge.model,
        regions=tuple(RegionOfResult(**asdict(region)) for region in decision.regions),
        regions_total=decision.regions_total,
        image=ImageSize(width=taken.size[0], height=taken.size[1]) if taken.size else None,
        latency_ms=round((time.monotonic_ns() - taken.frame.ts_mono_ns) / 1e6, 3),
    )


def _pose(taken: "Queue[Taken | None]", judges: Judges, judge: Judge, image: np.ndarray, answer: Answer) -> None:
    """A question to a judge's engine, queued like a part."""
    now = time.monotonic_ns()
    judges.hold(judge)
    try:
        frame = Frame("a question", clock.utc(), now)
        taken.put(Taken(-1, judge, frame, None, image[0], answer=answer), timeout=QUESTION_S)
    except Full:
        judges.release(judge)
        answer(None, f"The engine took no question within {QUESTION_S:g} s.")


def _full(begun: Sequence[Begun]) -> bool:
    """Has the engine of the newest part no slot left? A part without a ticket stands in a slot's place."""
    engine = begun[-1].taken.judge.engine
    return sum(each.taken.judge.engine is engine for each in begun) >= engine.slots


def _begin(part: Taken) -> Begun:
    if part.image is None:
        return Begun(part)
    try:
        return Begun(part, part.judge.engine.submit(part.image[None]))
    except Exception as error:
        return Begun(part, error=str(error))


def _finish(part: Begun) -> Scored:
    if part.ticket is None:
        reason: UnknownReason | None = part.taken.reason if part.error is None else "engine_failed"
        return Scored(part.taken, None, reason, part.taken.detail if part.error is None else part.error)
    try:
        return Scored(part.taken, part.taken.judge.engine.collect(part.ticket))
    except Exception as error:
        return Scored(part.taken, None, "engine_failed", str(error))


def _prepare(sequence: int, frame: Frame, judge: Judge, onlookers: Onlookers = Onlookers()) -> Taken:
    size = None if frame.image is None else (frame.image.shape[1], frame.image.shape[0])
    slim = Frame(frame.name, frame.captured_at, frame.ts_mono_ns, error=frame.error, reason=frame.reason)
    if frame.image is None:
        return Taken(sequence, judge, slim, None, reason=frame.reason or "no_frame", detail=frame.error)
    try:
        image = prepare(frame.image, judge.preprocessing)
        return Taken(sequence, judge, slim, size, image, held=onlookers.hold(frame.image))
    except ImageError as error:
        return Taken(sequence, judge, slim, size, reason="wrong_size", detail=str(error))
