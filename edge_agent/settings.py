"""What every section of the agent's file is made of."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationInfo


def _from_config_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path if folder is None else folder / path.expanduser()


ConfigPath = Annotated[Path, AfterValidator(_from_config_folder)]

# One level of an MQTT topic, and part of the ids: never `+`, `/`, `#`, a space or a dot.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


class Settings(BaseModel):
    """A section of the file. Unknown settings are errors; pydantic repeats no value in its own (it may be a secret)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, revalidate_instances="always", hide_input_in_errors=True
    )
