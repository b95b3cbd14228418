"""Configs: one YAML file, one run. A wrong setting is answered with its line and the nearest right one."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """The user's config can't be used; the text says where, what was found and what would be right."""


class TrainingConfig(BaseModel, extra="forbid", frozen=True):
    """What every training needs. A system adds its own settings (config.py in its folder)."""

    # Settings that came after the first runs: at their default they are no part of the digest, which stays as it was
    added_later: ClassVar[frozenset[str]] = frozenset()

    seed: int = Field(0, ge=0, lt=2**31)
    image_size: int = Field(256, ge=32, le=2048)  # side of the square that the model sees, pixels
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height in the camera's pixels, before resizing
    color: Literal["rgb", "grey"] = "rgb"

    batch_size: int = Field(16, ge=1)
    epochs: int = Field(250, ge=1)
    steps_per_epoch: int = Field(125, ge=0)  # 0: as many full batches as the training images give
    steps_per_dispatch: int = Field(0, ge=0)  # updates per compiled call; 0: 1 on a CPU, 25 on a GPU
    learning_rate: float = Field(0.01, gt=0)
    warmup_steps: int = Field(0, ge=0)  # linear, from zero
    schedule: Literal["constant", "plateau", "cosine"] = "plateau"
    plateau_patience: int = Field(30, ge=1)  # epochs without progress before the learning rate is halved
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_min_delta: float = Field(1.0, ge=0)  # what counts as progress of the validation metric

    validation_fraction: float = Field(0.2, gt=0, lt=1)  # of the good training images, held out
    validation_samples: int = Field(500, ge=1)  # corrupted held-out images per epoch, drawn with repetition
    resident_limit_mb: int = Field(4096, ge=0)  # larger sets stream from disk through Grain

    @property
    def channels(self) -> int:
        return 3 if self.color == "rgb" else 1

    @field_validator("crop")
    @classmethod
    def _crop_has_area(cls, crop: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if crop is not None and (min(crop[:2]) < 0 or min(crop[2:]) < 1):
            raise ValueError("crop is x, y, width, height in pixels: x and y at least 0, width and height at least 1")
        return crop


class RunConfig(TrainingConfig, frozen=True):
    """What every detector's run needs."""

    target_false_reject_rate: float = Field(0.01, gt=0, lt=1)
    pixel_quantile: float = Field(0.999, gt=0, lt=1)  # of held-out good pixels; the anomaly map's threshold

    @property
    def generated_defects(self) -> Path | None:
        """A folder of generated defects that the training uses."""
        return None


THRESHOLD_SETTINGS = frozenset({"target_false_reject_rate", "pixel_quantile"})  # read after training only

Config = TypeVar("Config", bound=TrainingConfig)


def configs_folder() -> Path:
    """Where the named configs lie: beside the packages in a checkout, inside `train` in an installed wheel."""
    shipped = Path(__file__).parent / "configs"
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / "configs"


def find_config(system: str, name: str) -> Path:
    """NAME of configs/SYSTEM/NAME.yaml, or a file's path."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such config file.")
        return path
    known = sorted(file.stem for file in (configs_folder() / system).glob("*.yaml"))
    if name in known:
        return configs_folder() / system / f"{name}.yaml"
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"--config {name}: {system} has no such config. "
        + (f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}; or name a .yaml file.")
    )


def load_config(path: Path, schema: type[Config], overrides: Sequence[str] = ()) -> Config:
    """A validated config of a YAML file and `key=value` overrides; ConfigError lists all that is wrong, a line each."""
    settings, lines = _read_yaml(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: write it as key=value, for example --set seed=1.")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not YAML ({_first_line(error)}).") from None
        lines[key.strip()] = None
    try:
        return schema.model_validate(settings)
    except ValidationError as errors:
        raise ConfigError("\n".join(explain(path, lines, schema, error) for error in errors.errors())) from None


def explain(path: Path, lines: dict[str, int | None], schema: type[BaseModel], error: ErrorDetails) -> str:
    """One validation error as a sentence: file and line (or the command line), what was found, what would be right."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # of several settings together, which the message names
        return f"{path}: {message}."
    key = str(error["loc"][0])
    line = lines.get(key)
    where = f"--set {key}" if key in lines and line is None else f"{path}:{line}: {key}" if line else f"{path}: {key}"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, schema.model_fields, n=1)
        return f"{where} is not a setting." + (f" Did you mean {near[0]}?" if near else " See the files in configs/.")
    return f"{where} is {error['input']!r}. {message}."


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int | None]]:
    """A flat mapping and the line of each of its keys."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        settings = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line} is not YAML: {error.problem}. Check colons, quotes and indentation.") from None
    if node is None:
        return {}, {}
    if not isinstance(settings, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path} holds a {type(settings).__name__}, not settings. Write one `key: value` a line.")
    lines: dict[str, int | None] = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
    return {str(key): value for key, value in settings.items()}, lines


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def dump_config(config: TrainingConfig, header: Sequence[str] = ()) -> str:
    """The resolved config as YAML with a comment header; a valid --config file itself."""
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None)
    return "".join(f"# {line}\n" for line in header) + settings


def config_digest(config: TrainingConfig) -> str:
    """First 16 hex digits of the SHA-256 of the settings; equal for equal settings, whatever file they came from."""
    unset = {name for name in config.added_later if getattr(config, name) == type(config).model_fields[name].default}
    return hashlib.sha256(config.model_dump_json(exclude=unset).encode()).hexdigest()[:16]
