"""One run of the agent, from its configuration to its last word."""

import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from queue import Queue
from types import FrameType

from edge_agent import __version__
from edge_agent.bundle import Bundle, open_bundle
from edge_agent.cameras.open import open_camera
from edge_agent.cameras.outages import watch_outages
from edge_agent.commands.desk import CommandDesk
from edge_agent.commands.memory import restore
from edge_agent.commands.model_orders import Workshop
from edge_agent.config import AgentConfig
from edge_agent.connection import Connection, Will
from edge_agent.control import Control
from edge_agent.engine_state import EngineState
from edge_agent.engines.build import Builder, build_candidate
from edge_agent.engines.child import Opener, open_candidate
from edge_agent.health import Tally
from edge_agent.identity import Identity
from edge_agent.messages import EngineInService, Model, Origin, Result, Topics, encode
from edge_agent.models.appoint import Appointer
from edge_agent.models.boot import Register, start
from edge_agent.models.judge import Judge, Judges, Key
from edge_agent.models.shelf import Shelf
from edge_agent.onlookers import make_onlookers
from edge_agent.outbox import Outbox
from edge_agent.parts.codes import CodeReader
from edge_agent.parts.inbox import TriggerInbox
from edge_agent.parts.source import PairedParts, make_source
from edge_agent.pictures import Album
from edge_agent.pipeline import QUEUED_VERDICTS, Decided, deliver, inspect, show
from edge_agent.publisher import Publisher
from edge_agent.stages import Wake, wake
from edge_agent.watchdog import Watchdog

log = logging.getLogger(__name__)

FIRST_CONNECTION_S = 2.0  # the camera waits so long for the broker, so that the first verdicts aren't "historical"


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    tally: Tally
    delivered: int  # verdicts that the broker acknowledged
    left: int  # messages that stay in the outbox
    interrupted: bool
    broker: str  # how the last connection stood, a sentence


def run(
    config: AgentConfig,
    given: Callable[[Result], None],
    *,
    dry_run: bool = False,
    opener: Opener = open_candidate,
    builder: Builder = build_candidate,
) -> Summary:
    """Inspect until the camera ends or the agent is told to stop (SIGINT, SIGTERM). `given` gets every durable verdict.

    opener, builder: functions of a module; they run in processes of their own and open, or build, the engine there.

    Raises ConfigError, BundleError, CameraError, EngineError, PictureError or OutboxError before the first part, and
    StageError when a stage breaks down later.
    """
    config.mqtt.read_password()  # a missing file shows now, not at the first connection
    cameras = {name: open_camera(settings) for name, settings in config.cameras.items()}
    source, first = make_source(cameras, config.parts), next(iter(cameras))
    reads = config.parts.code.camera or first
    maps = config.anomaly_maps
    tally = Tally()
    decided: Queue[Decided | Wake | None] = Queue(QUEUED_VERDICTS)
    engine_state, watchdog = EngineState(wake=lambda: wake(decided)), Watchdog()
    register = Register(config.models.record, read_only=dry_run)
    watch_outages(cameras, engine_state.note_event)
    appointer = Appointer(config, engine_state, opener=opener, builder=builder)

    def stop() -> None:
        source.close()
        wake(decided)

    with (
        _judges(config, register, appointer, engine_state) as judges,
        closing(CodeReader(config.parts.code)) if config.parts.named_by == "code" else nullcontext() as reader,
        _stop_signals(stop) as stopping,
    ):
        bundle = judges.in_service(None, first).bundle
        if dry_run:
            last = partial(show, tally=tally, given=given)
            inspect(
                source, judges, _origin(config, bundle, 1), decided, last, threshold=config.threshold, reader=reader,
                reads=reads,
            )  # fmt: skip
            return Summary(tally, 0, 0, stopping.is_set(), "dry run")
        album = Album(maps.folder, maps.keep) if maps.folder is not None else None
        room = config.outbox
        outbox = Outbox(
            room.path, max_rows=room.max_rows, max_bytes=room.max_bytes, memory_rows=room.memory_rows
        )  # fmt: skip
        identity = Identity(secrets.token_hex(8))
        origin = replace(_origin(config, bundle, outbox.boot), instance=identity.instance)
        standing = restore(outbox.recall(), config.commands, config.threshold, bundle.digest)
        control = Control(standing.threshold, paused=standing.paused)
        triggers: TriggerInbox | None = None
        if isinstance(source, PairedParts) and config.parts.trigger == "mqtt":
            triggers = TriggerInbox(source, config.parts.window_ms, engine_state.note_event)

        def engine_in_service() -> EngineInService | None:
            return engine_state.in_service(judges.in_service(None, first).voice)

        will = Will(origin.topics.of("state"), encode(origin.state("offline")))
        connection = Connection(
            config.mqtt, config.client_id, will=will, wake=lambda: wake(decided), listen=f"{origin.topics.of('cmd')}/#",
            hear=(origin.topics.of("trigger"), triggers.receive) if triggers else None,
            own_state=origin.topics.of("state"), identity=identity,
        )  # fmt: skip
        publisher = Publisher(
            outbox, connection, origin, window=config.mqtt.window, replay_per_s=config.mqtt.replay_per_s,
            engine=engine_in_service, orders=lambda: control.orders, identity=identity,
            model=lambda: judges.in_service(None, first).model, rois=lambda: judges.rois,
        )  # fmt: skip
        shelf = Shelf(config.models.folder, config.public_key)
        workshop = Workshop(config.models, config.threshold, shelf, register, appointer.appoint_beside)
        desk = CommandDesk(
            config.commands, connection, publisher, origin, control, judges, standing, workshop,
            engine=engine_in_service, wake=lambda: wake(decided),
        )  # fmt: skip
        onlookers = make_onlookers(config, engine_state)
        connection.start(wait_s=FIRST_CONNECTION_S)
        last_stage = partial(
            deliver,
            publisher=publisher,
            origin=origin,
            tally=tally,
            given=given,
            health_interval_s=config.health_interval_s,
            drain_timeout_s=config.mqtt.drain_timeout_s,
            stopping=stopping,
            engine_state=engine_state,
            beat=_now_and_then(watchdog.alive),
            desk=desk,
            onlookers=onlookers,
            count_parts=lambda: source.counts,
            triggers=triggers,
        )
        watchdog.ready(f"The engine {judges.in_service(None, first).engine.name} serves.")
        try:
            inspect(
                source,
                judges,
                origin,
                decided,
                last_stage,
                control=control,
                publish_maps=maps.publish,
                album=album,
                onlookers=onlookers,
                reader=reader,
                reads=reads,
            )
        finally:
            watchdog.stopping()
            onlookers.close()
            broker = connection.outcome.text
            connection.close()
            left = len(outbox)
            outbox.close()
    return Summary(tally, publisher.delivered, left, stopping.is_set(), broker)


@contextmanager
def _judges(config: AgentConfig, register: Register, appointer: Appointer, state: EngineState) -> Iterator[Judges]:
    """Who judges each product under each camera, and the end of their engines; one bundle has one engine."""
    appointed: dict[str, Judge] = {}  # by the digest of the bundle
    serving: dict[Key, Judge] = {}

    def appoint(bundle: Bundle) -> Judge:
        if bundle.digest not in appointed:
            appointed[bundle.digest] = appointer.appoint(bundle)
        return appointed[bundle.digest]

    try:
        for key, folder in config.bundles.items():
            started = start(
                key,
                folder,
                register,
                lambda folder: open_bundle(folder, public_key=config.public_key),
                appoint,
                allow_older=config.models.allow_older,
            )
            for note in started.notes:
                state.note_event(note)
            serving[key] = started.judge
    except BaseException:
        Judges({(digest, ""): judge for digest, judge in appointed.items()}).close()
        raise
    judges = Judges(serving)
    try:
        yield judges
    finally:
        judges.close()


def _now_and_then(call: Callable[[], None], interval_s: float = 1.0) -> Callable[[], None]:
    """`call`, but no more often than this."""
    due = 0.0

    def limited() -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + interval_s
            call()

    return limited


def _origin(config: AgentConfig, bundle: Bundle, boot: int) -> Origin:
    manifest, tree = bundle.manifest, config.topic
    model = Model(name=manifest.name, version=manifest.version, digest=bundle.digest, system=manifest.system)
    topics = Topics(tree.prefix, tree.site, tree.line, tree.station, config.camera)
    return Origin(config.device, config.camera, boot, topics, model, __version__)


@contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM stops cleanly, the second one at once."""
    stopping = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        stopping.set()
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        stop()

    mine = threading.current_thread() is threading.main_thread()  # Python lets no other thread have them
    for number in before if mine else ():
        signal.signal(number, on_signal)
    try:
        yield stopping
    finally:
        for number, handler in before.items() if mine else ():
            signal.signal(number, handler)
