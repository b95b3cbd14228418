"""What the agent says on MQTT: topics and payloads. docs/messages.md describes them; docs/schema/ is made from here."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_agent import clock
from edge_agent.decision import UnknownReason, Verdict

Leaf = Literal["result", "state", "health", "event", "anomaly_map", "frame", "cmd", "trigger", "ack"]

EventName = Literal[
    "outbox_evicted",
    "outbox_replaced",
    "outbox_in_memory",
    "outbox_on_disk",
    "identity_clash",
    "engine_failed",
    "engine_refused",
    "model_changed",
    "model_refused",
    "model_rolled_back",
    "model_record_lost",
    "command",
    "camera_lost",
    "camera_back",
    "trigger_refused",
    "spool_stopped",
    "spool_resumed",
    "drift",
    "drift_over",
]
Severity = Literal["info", "warning", "alarm"]

AckStatus = Literal["accepted", "done", "failed", "rejected"]
# Why a command was rejected, or failed; closed, docs/messages.md says what each means.
AckReason = Literal[
    "oversized",
    "malformed",
    "retained",
    "wrong_topic",
    "switched_off",
    "unknown_command",
    "unknown_issuer",
    "id_reused",
    "no_storage",
    "clock_free_running",
    "expired",
    "expires_too_late",
    "too_many",
    "busy",
    "out_of_range",
    "step_too_large",
    "hourly_limit",
    "nothing_to_undo",
    "no_frame",
    "disagrees",
    "engine_failed",
    "interrupted",
    "unknown_camera",
    "unknown_bundle",
    "bad_bundle",
    "wrong_product",
    "not_newer",
    "not_proved",
    "too_few_parts",
    "not_written",
]

SCHEMA_VERSION: Literal["1.0"] = "1.0"


class TopicError(ValueError):
    """A name that would break the topic tree."""


@dataclass(frozen=True)
class Topics:
    """The topics of one camera: `<prefix>/v1/<site>/<line>/<station>/<camera>/<leaf>`."""

    prefix: str
    site: str
    line: str
    station: str
    camera: str

    def __post_init__(self) -> None:
        for level in (self.prefix, self.site, self.line, self.station, self.camera):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", level):
                raise TopicError(f"{level!r} can't be a level of an MQTT topic. Use letters, digits, _ and - only.")

    def under(self, camera: str) -> "Topics":
        """Those of another camera of this agent."""
        return replace(self, camera=camera)

    def of(self, leaf: Leaf) -> str:
        return f"{self.prefix}/v1/{self.site}/{self.line}/{self.station}/{self.camera}/{leaf}"


class Part(BaseModel):
    """What all JSON has in common: no unknown field, no change, no NaN (which is not JSON)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Payload(Part):
    """JSON on a topic. `schema_version`: a reader of 1.x may rely on every field named here; 1.x only adds fields."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    device: str = Field(description="Which agent: the `device` of its configuration.")
    camera: str = Field(description="Which camera of the device; with several, what they are called together.")
    boot: int = Field(ge=1, description="Raised by one at every start of the agent; starts at random in a new outbox.")
    ts: str = Field(description="RFC 3339, UTC with Z, microseconds. Results: of the trigger, else of the frame.")


Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the whole upright frame


class Model(Part):
    """The bundle in service."""

    name: str = Field(description="The product that the detector was trained for.")
    version: int = Field(description="Integer per product, raised at every export.")
    digest: str = Field(description="sha256 of manifest.json: names the bundle's exact content.")
    system: str = Field(description="The published method, e.g. aesc.")


class RegionOfResult(Part):
    """A connected area of the anomaly map above the pixel threshold, in pixels of a frame of size `image`."""

    box: tuple[int, int, int, int] = Field(description="x0, y0, x1, y1; x1 and y1 lie just outside.")
    area_px: int
    peak: float = Field(description="Largest value of the normalised map; 1.0 is the pixel threshold.")
    peak_at: tuple[int, int] = Field(description="x, y of the peak.")
    centroid: tuple[float, float] = Field(description="x, y of the centre of area.")


class ImageSize(Part):
    """Size in pixels of the whole upright frame; regions are given in it."""

    width: int
    height: int


class View(Part):
    """What one of several cameras says about the part. Any reject rejects it; else any unknown makes it unknown."""

    camera: str
    verdict: Verdict
    reason: UnknownReason | None = Field(description="Why the verdict is unknown; null otherwise.")
    detail: str | None = None
    image_score: float | None
    raw_score: float | None
    model: Model | None
    regions: tuple[RegionOfResult, ...] = Field(default=(), description="In pixels of this camera's frame.")
    regions_total: int = 0
    image: ImageSize | None


class Result(Payload):
    """The verdict on one part. De-duplicate by (device, camera, boot, sequence); `result_id` is the four in one."""

    result_id: str = Field(description="<device>.<camera>.<boot>.<sequence>")
    sequence: int = Field(ge=0, description="Counts the parts from 0 at each boot; given at the trigger.")
    part: str | None = Field(
        description="The part's id: of the camera (a file's name, a counter), of the trigger, or read in the frame; "
        "null where nothing named it."
    )
    trigger_id: str | None = Field(default=None, description="Of the message that announced the part; null: none did.")
    product: str | None = Field(default=None, description="What the trigger says that the part is; null: not said.")
    ts_mono_ns: int = Field(description="The device's monotonic clock at the moment of ts: for differences.")
    time_sync: Literal["ok", "free_running"] = Field(description="Is the device's clock disciplined (NTP, PTP)?")
    verdict: Verdict = Field(description="unknown: the part could not be judged, see reason. Treat as not passed.")
    reason: UnknownReason | None = Field(description="Why the verdict is unknown; null otherwise.")
    detail: str | None = Field(description="The reason as a sentence for people, where there is more to say.")
    image_score: float | None = Field(description="Normalised: raw score / fitted threshold; null if there is none.")
    threshold: float = Field(description="The limit image_score was compared with; above it the part is rejected.")
    raw_score: float | None = Field(description="The detector's own score, as the bundle's manifest defines it.")
    model: Model | None = Field(description="Which bundle judged, or would have; null where none is for this product.")
    regions: tuple[RegionOfResult, ...] = Field(default=(), description="Largest peak first; the number is limited.")
    regions_total: int = Field(default=0, description="How many regions there were.")
    image: ImageSize | None = Field(description="null when the frame could not be decoded; with `views`: see there.")
    views: tuple[View, ...] = Field(
        default=(), description="With several cameras, one for each of a part that was looked at; empty with one."
    )
    latency_ms: float = Field(ge=0, description="From the moment of ts to the decision.")
    historical: bool = Field(
        default=False, description="Sent late: decided before the present connection to the broker."
    )


class RefusedEngine(Part):
    """An engine that was tried and does not serve."""

    name: str = Field(description="Engine, and precision where it has a choice: `openvino (bfloat16)`.")
    reason: str = Field(description="A sentence: what failed, or how much slower it is.")
    latency_ms: float | None = Field(default=None, description="Where it agrees with the golden set and is slower.")


class EngineBuild(Part):
    """An engine file that is being built beside the line."""

    name: str
    stage: str
    percent: int = Field(ge=0, le=100, description="In steps of 10.")


class EngineInService(Part):
    """What runs the bundle's graph now."""

    name: str = Field(description="onnxruntime, openvino, tensorrt, tensorrt_rtx or replay.")
    precision: str = Field(description="What it computes in: float32, bfloat16, or what the bundle's graph says.")
    latency_ms: float = Field(description="Median of one image on this machine, measured when the engine was proved.")
    condition: Literal["serving", "restarting"] = Field(
        description="restarting: its process died; parts wait a little for the new one and are unknown after that."
    )
    asked: str = Field(description="engine.kind of the configuration.")
    chosen: str = Field(description="Why this engine serves, a sentence.")
    fallback: bool = Field(description="It is not the one that was asked for.")
    restarts: int = Field(ge=0, description="New processes since the agent's start: after a death, or after nonsense.")
    refused: tuple[RefusedEngine, ...] = ()
    building: EngineBuild | None = None


class State(Payload):
    """Who is alive. Retained; `offline` is the agent's will, so its ts is that of the connection it was left with."""

    state: Literal["online", "stopped", "offline"]
    agent_version: str
    model: Model | None = None
    engine: EngineInService | None = Field(default=None, description="null in `offline` and `stopped`.")
    instance: str | None = Field(default=None, description="Random, of one run: tells two agents of one name apart.")
    storage: Literal["disk", "memory"] | None = Field(
        default=None, description="memory: the disk takes nothing, verdicts wait for the broker in memory."
    )
    threshold: float | None = Field(default=None, description="In force for the next part; null as `engine`.")
    paused: bool | None = Field(default=None, description="A command has paused the agent; null as `engine`.")
    rois: dict[str, Box] | None = Field(
        default=None, description="Crops that commands have set: by camera, or product/camera; null as `engine`."
    )


class DriftOfHealth(Part):
    """How the frames of one camera and product compare with the first ones of the model in service."""

    camera: str
    product: str
    state: Literal["learning", "steady", "drifting"]
    reference_parts: int = Field(description="How many parts the reference rests on, so far.")
    drifted: tuple[str, ...] = Field(default=(), description="Which of `changes` raised the alarm.")
    changes: dict[str, float] = Field(
        default_factory=dict,
        description="Of the last 50 parts or so, by statistic: 0.05 is 5 % above the reference; "
        "score: in thresholds, of passes only.",
    )


class Health(Payload):
    """Every few seconds while connected: counts since the agent's start."""

    uptime_s: float
    passed: int
    rejected: int
    unknown: int
    triggers: int = Field(default=0, description="Parts so far, announced by a message or by a frame.")
    parts_in_hand: int = Field(default=0, description="triggers - passed - rejected - unknown.")
    no_frame: int = Field(default=0, description="Of `unknown`, by their reason; so are the next five.")
    missing_view: int = 0
    orphan: int = 0
    duplicate: int = 0
    overrun: int = 0
    late: int = 0
    triggers_repeated: int = Field(default=0, description="What the broker sent again: no parts, not in `triggers`.")
    triggers_refused: int = Field(default=0, description="Messages on `trigger` that are none: no parts, no verdicts.")
    no_code: int = Field(default=0, description="Parts without an id, because no code was read in the frame.")
    frames_dropped: int = Field(default=0, description="Of free-running cameras: another came before there was room.")
    frames_late: int = Field(default=0, description="Of free-running cameras: too old when they came.")
    frames_repeated: int = Field(default=0, description="The same picture again, not judged a second time.")
    camera_reconnects: int = 0
    latency_mean_ms: float | None = Field(description="Of the parts decided since the last health message.")
    latency_max_ms: float | None
    engine_restarts: int = Field(default=0, description="As `engine.restarts` of the state.")
    outbox_rows: int
    outbox_size_bytes: int
    outbox_held: int = Field(default=0, description="Of outbox_rows: in memory, because the disk takes nothing.")
    evicted_results: int = Field(description="Verdicts that a full outbox had to drop, ever. Not 0: verdicts are lost.")
    evicted_images: int = Field(description="Pictures that a full outbox had to drop, ever.")
    commands_refused: int = Field(default=0, description="Commands without effect since the start, answered or not.")
    spool_files: int = Field(default=0, description="Frames kept for retraining.")
    spool_size_bytes: int = 0
    spool_dropped: int = Field(default=0, description="Frames since the start that should have been kept and were not.")
    drift: tuple[DriftOfHealth, ...] = ()
    time_sync: Literal["ok", "free_running"]


class Golden(Part):
    """How far the engine in service is from the bundle's golden set; the limits are the manifest's."""

    n: int = Field(description="Images compared.")
    map_error: float = Field(description="Largest difference of an anomaly map, as a share of the maps' range.")
    score_error: float = Field(description="Largest relative difference of a score.")
    verdict_flips: int


class Compared(Part):
    """What both bundles said of the same parts before a change of model; only the old one's verdicts counted."""

    parts: int = Field(ge=0, description="That both scored.")
    flips: int = Field(ge=0, description="The new bundle's verdict was another one, or none.")
    unknown: int = Field(ge=0, description="Of the flips: the new bundle gave no verdict.")


class Commanded(Part):
    """Which command, from whom, and what came of it. Nothing else of what was sent is ever repeated."""

    command_id: str | None = Field(default=None, description="The sender's; null where it can't be read.")
    command: str | None = Field(default=None, description="The verb; null where it is none.")
    issued_by: str | None = Field(default=None, description="Who says to have sent it; null where that can't be read.")
    status: AckStatus
    reason: AckReason | None = Field(default=None, description="Why it was rejected, or failed; null otherwise.")
    detail: str | None = Field(default=None, description="The outcome as a sentence for people.")
    threshold: float | None = Field(default=None, description="set_threshold: in force from now on.")
    threshold_before: float | None = Field(default=None, description="set_threshold: until now.")
    result_id: str | None = Field(default=None, description="snapshot: of the frame, and of its verdict.")
    golden: Golden | None = Field(default=None, description="self_test: what was measured.")
    model: Model | None = Field(default=None, description="reload_model, rollback: in service from now on.")
    model_before: Model | None = Field(default=None, description="reload_model, rollback: until now.")
    compared: Compared | None = Field(default=None, description="reload_model with shadow_parts: what came of it.")
    roi: Box | None = Field(default=None, description="set_roi: in force from now on; null: the bundle's own crop.")
    roi_before: Box | None = Field(default=None, description="set_roi: until now.")


class Ack(Commanded, Payload):
    """The answer to a command; durable and at least once, like a result. Match it by `command_id`."""

    command_id: str


class Event(Payload):
    """Something a person should know about; durable and at least once, like a result."""

    event: EventName
    severity: Severity
    message: str
    counts: dict[str, int] = Field(default_factory=dict)
    command: Commanded | None = Field(default=None, description="Of the event `command`: its audit record.")


@dataclass(frozen=True)
class Origin:
    """Who speaks: what all messages of one run of the agent about one camera have in common."""

    device: str
    camera: str
    boot: int
    topics: Topics
    model: Model  # in service at the start
    agent_version: str
    instance: str | None = None  # of this run, random

    def ids(self) -> dict[str, Any]:
        return {"device": self.device, "camera": self.camera, "boot": self.boot}

    def result_id(self, sequence: int) -> str:
        return f"{self.device}.{self.camera}.{self.boot}.{sequence}"

    def state(
        self,
        state: Literal["online", "stopped", "offline"],
        engine: EngineInService | None = None,
        *,
        threshold: float | None = None,
        paused: bool | None = None,
        model: Model | None = None,
        storage: Literal["disk", "memory"] | None = None,
        rois: Mapping[str, Box] | None = None,
    ) -> State:
        return State(
            **self.ids(),
            ts=clock.now(),
            state=state,
            agent_version=self.agent_version,
            model=model or self.model,
            engine=engine,
            instance=self.instance,
            storage=storage,
            threshold=threshold,
            paused=paused,
            rois=None if rois is None else dict(rois),
        )


def encode(payload: BaseModel) -> bytes:
    """The JSON text that goes over the wire, UTF-8."""
    return payload.model_dump_json().encode()


PAYLOADS: Mapping[str, type[Payload]] = {"result": Result, "state": State, "health": Health, "event": Event, "ack": Ack}


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of each JSON payload, by leaf; what docs/schema/LEAF.json holds."""
    schemas = {}
    for leaf, payload in PAYLOADS.items():
        schema = payload.model_json_schema(mode="serialization")
        schemas[leaf] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return schemas


def write_schemas(folder: Path) -> None:
    """docs/schema/, anew: `python -c "from edge_agent.asyncapi import *; write_documents(Path('docs/schema'))"`"""
    folder.mkdir(parents=True, exist_ok=True)
    for leaf, schema in json_schemas().items():
        (folder / f"{leaf}.json").write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
