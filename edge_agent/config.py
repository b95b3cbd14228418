"""The agent's one YAML file: what it may say, and an answer with file, line and nearest setting to everything else.

`{ENV_VAR}` in a value is replaced by the environment variable of that name. Relative paths start at the file's folder.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edge_agent.cameras.settings import CameraConfig
from edge_agent.config_file import ConfigError, Document, explain
from edge_agent.drift.settings import DriftConfig
from edge_agent.models.settings import ModelsConfig
from edge_agent.parts.settings import PartsConfig
from edge_agent.settings import ConfigPath, Name, Settings
from edge_agent.spool.settings import SpoolConfig


class TopicConfig(Settings):
    """Where this agent publishes: `prefix/v1/site/line/station/CAMERA/{result,state,...}`."""

    prefix: Name = "faultline"
    site: Name
    line: Name
    station: Name


class EngineConfig(Settings):
    """What runs the bundle's graph."""

    # auto: the fastest installed here that passes the golden set; replay: the golden set's recorded scores in turn
    kind: Literal["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "replay"] = "auto"
    fallback: bool = True  # where `kind` can't serve, or isn't built yet, ONNX Runtime does; the state says so
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # what openvino computes in; auto: both are tried
    threads: int | None = Field(default=None, ge=1)  # None: as many as the machine has cores
    device: int = Field(default=0, ge=0)  # which GPU
    cache: ConfigPath | None = None  # folder of the engine files that were built on this device
    timeout_s: float = Field(default=10.0, gt=0.0)  # an answer that takes longer is none: the engine is started anew
    wait_s: float = Field(default=5.0, ge=0.0)  # parts wait so long for a new engine, and are unknown after that


class TlsConfig(Settings):
    """An encrypted connection; an empty section (`tls: {}`) trusts the system's certificate authorities."""

    ca_file: ConfigPath | None = None
    certificate_file: ConfigPath | None = None  # this device's own certificate, where the broker asks for one
    key_file: ConfigPath | None = None

    @model_validator(mode="after")
    def _certificate_has_key(self) -> "TlsConfig":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("give both certificate_file and key_file, or neither")
        return self


class MqttConfig(Settings):
    """The broker, the login, and how hard the agent leans on them."""

    host: str = Field(min_length=1)
    port: int = Field(default=1883, ge=1, le=65535)
    username: str | None = None
    password: SecretStr | None = None  # for "{ENV_VAR}"; a password_file keeps it out of the environment too
    password_file: ConfigPath | None = None
    tls: TlsConfig | None = None
    client_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=128)] | None = None
    version: Annotated[Literal["3.1.1", "5"], BeforeValidator(str)] = "3.1.1"
    keepalive_s: int = Field(default=30, ge=3, le=3600)
    reconnect_min_s: float = Field(default=1.0, gt=0.0)
    reconnect_max_s: float = Field(default=30.0, gt=0.0)
    window: int = Field(default=64, ge=4, le=1000)  # messages on their way to the broker at one time
    replay_per_s: float = Field(default=200.0, gt=0.0)  # the backlog after an outage is sent no faster
    message_expiry_s: int | None = Field(default=None, ge=1)  # MQTT 5: what nobody fetched by then, the broker forgets
    drain_timeout_s: float = Field(default=30.0, ge=0.0)  # wait for the broker when a finite camera has ended

    @model_validator(mode="after")
    def _login_is_whole(self) -> "MqttConfig":
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        if self.username is None and (self.password is not None or self.password_file is not None):
            raise ValueError("a password needs a username beside it")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("the longest wait, reconnect_max_s, is below the shortest, reconnect_min_s")
        if self.message_expiry_s is not None and self.version != "5":
            raise ValueError("set version: 5, or leave message_expiry_s out: 3.1.1 has no expiry")
        return self

    def read_password(self) -> SecretStr | None:
        """The password; from password_file at every connection, so that it can be changed while the agent runs."""
        if self.password_file is None:
            return self.password
        try:
            return SecretStr(self.password_file.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(
                f"mqtt.password_file: {self.password_file} can't be read ({reason}). "
                "Write the password into that file, readable by the agent's user only."
            ) from None


class OutboxConfig(Settings):
    """Verdicts on disk until the broker has acknowledged them."""

    path: ConfigPath = Path("outbox.db")
    max_rows: int = Field(default=200_000, ge=100)
    max_bytes: int = Field(default=512 * 1024**2, ge=1024**2)
    memory_rows: int = Field(default=10_000, ge=0, le=1_000_000)  # held while the disk takes nothing; 0: the agent ends


class AnomalyMapConfig(Settings):
    """What happens to the anomaly maps of rejected parts."""

    publish: bool = True  # as PNG on their own topic
    folder: ConfigPath | None = None  # save a picture of each reject here
    keep: int = Field(default=1000, ge=1)  # the newest so many pictures stay in the folder


class ThresholdLimits(Settings):
    """What set_threshold may do."""

    min: float = Field(default=0.8, gt=0.0, allow_inf_nan=False)
    max: float = Field(default=1.25, gt=0.0, allow_inf_nan=False)
    step: float = Field(default=0.1, ge=0.0, allow_inf_nan=False)  # by one command
    per_hour: float = Field(default=0.2, ge=0.0, allow_inf_nan=False)  # by all of an hour together; undo is always free

    @model_validator(mode="after")
    def _range_is_in_order(self) -> "ThresholdLimits":
        if self.max < self.min:
            raise ValueError("the largest threshold, max, is below the smallest, min")
        return self


class RoiLimits(Settings):
    """What set_roi may do to the crop of the bundle in service (to the whole frame, where it has none)."""

    max_shift_px: int = Field(default=50, ge=0)  # of the crop's centre, in each direction
    min_scale: float = Field(default=0.9, gt=0.0, le=1.0, allow_inf_nan=False)  # of its width, and of its height
    max_scale: float = Field(default=1.1, ge=1.0, allow_inf_nan=False)


COMMANDS_REMEMBERED = 1000  # ids; a command must have expired before its id is forgotten


class CommandsConfig(Settings):
    """What others may tell the agent over MQTT."""

    enabled: bool = False  # off: every command is answered `rejected`, and the threshold is that of this file
    issuers: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")], ...] = ()  # who may
    max_age_s: float = Field(default=300.0, ge=1.0, le=3600.0)  # no command may be valid for longer
    per_minute: int = Field(default=10, ge=1, le=1000)
    allow_free_running_clock: bool = False  # judge expires_at by a clock that nothing disciplines
    threshold: ThresholdLimits = ThresholdLimits()
    roi: RoiLimits = RoiLimits()
    audit_file: ConfigPath = Path("commands.log")

    @model_validator(mode="after")
    def _is_safe(self) -> "CommandsConfig":
        if self.enabled and not self.issuers:
            raise ValueError("enabled commands need issuers: name who may send them")
        if self.per_minute * (self.max_age_s / 60.0 + 1.0) > COMMANDS_REMEMBERED:
            raise ValueError(
                f"per_minute times max_age_s allows more than the {COMMANDS_REMEMBERED} commands whose ids are "
                "remembered, so an old one could be replayed; lower one of the two"
            )
        return self


def _shape_of_bundle(value: Any) -> str:
    return "one for each camera" if isinstance(value, dict) else "one for all cameras"


# A folder, or one for each camera: `{top: bundles/lid, side: bundles/wall}`.
BundlePaths = Annotated[
    Annotated[ConfigPath, Tag("one for all cameras")] | Annotated[dict[Name, ConfigPath], Tag("one for each camera")],
    Discriminator(_shape_of_bundle),
]


class AgentConfig(Settings):
    """The whole file."""

    device: Name
    public_key: ConfigPath | None = None  # refuse bundles that this Ed25519 key hasn't signed
    topic: TopicConfig
    cameras: dict[Name, CameraConfig] = Field(min_length=1, max_length=8)
    parts: PartsConfig = PartsConfig()
    bundle: BundlePaths
    products: dict[Name, BundlePaths] = Field(
        default_factory=dict
    )  # what a trigger may name; parts without a product are for `bundle`
    engine: EngineConfig = EngineConfig()
    threshold: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)  # a score above it is a reject; 1.0: as fitted
    mqtt: MqttConfig
    outbox: OutboxConfig = OutboxConfig()
    anomaly_maps: AnomalyMapConfig = AnomalyMapConfig()
    commands: CommandsConfig = CommandsConfig()
    models: ModelsConfig = ModelsConfig()
    spool: SpoolConfig = SpoolConfig()
    drift: DriftConfig = DriftConfig()
    health_interval_s: float = Field(default=10.0, gt=0.0)

    @field_validator("parts")
    @classmethod
    def _names_are_cameras(cls, parts: PartsConfig, info: ValidationInfo) -> PartsConfig:
        cameras = info.data.get("cameras", {})
        if len(cameras) > 1 and parts.name in cameras:
            raise ValueError(f"name is {parts.name}, which is one of the cameras; the group needs one of its own")
        if cameras and parts.code.camera not in (None, *cameras):
            raise ValueError(f"code.camera is {parts.code.camera}, and the cameras are {', '.join(cameras)}")
        return parts

    @field_validator("bundle")
    @classmethod
    def _bundle_is_whole(cls, bundle: "Path | dict[str, Path]", info: ValidationInfo) -> "Path | dict[str, Path]":
        _each_camera_has_one(bundle, info)
        return bundle

    @field_validator("products")
    @classmethod
    def _products_are_whole(cls, products: "dict[str, Any]", info: ValidationInfo) -> "dict[str, Any]":
        for name, bundle in products.items():
            _each_camera_has_one(bundle, info, f"product {name}: ")
        return products

    @model_validator(mode="after")
    def _threshold_is_in_range(self) -> "AgentConfig":
        limits = self.commands.threshold
        if self.commands.enabled and not limits.min <= self.threshold <= limits.max:
            raise ValueError(
                f"threshold is {self.threshold:g}, outside commands.threshold, {limits.min:g} to {limits.max:g}; "
                "commands could never come back to it"
            )
        return self

    @property
    def camera(self) -> str:
        """The name of the one camera, or of all together: it is in the ids and in the topics."""
        return next(iter(self.cameras)) if len(self.cameras) == 1 else self.parts.name

    @property
    def bundles(self) -> dict[tuple[str | None, str], Path]:
        """The folder that judges each product (None: a part without one) under each camera."""
        named: list[tuple[str | None, Path | dict[str, Path]]] = [(None, self.bundle), *self.products.items()]
        return {
            (product, camera): paths[camera] if isinstance(paths, dict) else paths
            for product, paths in named
            for camera in self.cameras
        }

    @property
    def client_id(self) -> str:
        """What the broker knows this agent by."""
        return self.mqtt.client_id or f"{self.topic.prefix}-{self.topic.station}-{self.device}-{self.camera}"


def _each_camera_has_one(bundle: "Path | dict[str, Path]", info: ValidationInfo, where: str = "") -> None:
    cameras = info.data.get("cameras", {})
    if not isinstance(bundle, dict) or not cameras:
        return
    if wrong := sorted(set(bundle) ^ set(cameras)):
        raise ValueError(f"{where}give a bundle for each of {', '.join(cameras)}, and no other; see {', '.join(wrong)}")


def read_config(path: Path) -> AgentConfig:
    """Read and check the agent's file. Raises ConfigError that lists everything found wrong, not only the first."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} can't be read: {reason}. Copy configs/agent/line.yaml and edit it.") from None
    document = Document(path, text)
    problems, config = document.problems, None
    if document.value is not None:
        try:
            config = AgentConfig.model_validate(document.value, context={"folder": path.parent})
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            problems = [*problems, *(explain(document, AgentConfig, detail) for detail in found)]
    if problems or config is None:
        raise ConfigError("\n".join(problems))
    return config
