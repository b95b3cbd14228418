"""The `parts` section of the agent's file: what announces a part, what names it, how long anything may take."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_agent.settings import Name, Settings

PartId = Literal["camera", "counter", "trigger", "code"]
Whole = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class CodeConfig(Settings):
    """Where the part's id is read, as a barcode or QR code."""

    kind: Literal["any", "qr", "barcode"] = "any"
    camera: Name | None = None  # whose frame; None: the first camera's
    region: tuple[Whole, Whole, Size, Size] | None = None  # x, y, width, height in the frame; None: all of it
    timeout_ms: float = Field(default=300.0, gt=0.0, le=10_000.0)  # from the frame; the verdict waits no longer for it


class PartsConfig(Settings):
    """How parts are told from each other."""

    trigger: Literal["frame", "mqtt"] = "frame"  # frame: each frame is a part; mqtt: each message on `trigger` is
    id: PartId | None = None  # None: as the camera calls the frame; with trigger mqtt as the trigger calls the part
    window_ms: float = Field(default=500.0, gt=0.0, le=60_000.0)  # how far a trigger and its frames may lie apart
    deadline_ms: float | None = Field(default=None, gt=0.0, le=600_000.0)  # from the trigger to the verdict
    queue: int = Field(default=8, ge=1, le=1000)  # parts that may wait for the line; further ones are overrun
    name: Name = "all"  # of several cameras together: the level of the topic that one camera has its name in
    code: CodeConfig = CodeConfig()

    @model_validator(mode="after")
    def _trigger_names_parts(self) -> "PartsConfig":
        if self.id == "trigger" and self.trigger != "mqtt":
            raise ValueError("id is trigger, and only a message can name a part: set trigger: mqtt, or another id")
        return self

    @property
    def named_by(self) -> PartId:
        """Where a part's id comes from."""
        return self.id or ("trigger" if self.trigger == "mqtt" else "camera")
