"""What the agent does without a broker: score images once, record images to train from."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Any

from edge_agent import clock
from edge_agent.bundle import open_bundle
from edge_agent.cameras import Camera, FolderCamera, Frame, VideoFileCamera
from edge_agent.cameras.open import open_camera
from edge_agent.config import read_config
from edge_agent.decision import Decision, decide, unknown
from edge_agent.engines import Engine, EngineError, open_engine
from edge_agent.engines.golden import check_golden
from edge_agent.pictures import overlay, write_png
from edge_agent.preprocess import ImageError, Preprocessing, prepare, read_image


class InputError(ValueError):
    """What the user gave can't be right; the text says what would be."""


@dataclass(frozen=True)
class Looked:
    """One image, judged."""

    name: str
    decision: Decision
    detail: str | None = None
    image_score: float | None = None
    raw_score: float | None = None
    picture: Path | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "image": self.name,
            "verdict": self.decision.verdict,
            "reason": self.decision.reason,
            "detail": self.detail,
            "image_score": self.image_score,
            "raw_score": self.raw_score,
            "regions": [asdict(region) for region in self.decision.regions],
            "regions_total": self.decision.regions_total,
            "picture": None if self.picture is None else str(self.picture),
        }


def score_images(bundle: Path, images: Path, save: Path | None = None) -> Iterator[Looked]:
    """Judge a file, or all images below a folder, in the order of their names. BundleError, EngineError, InputError."""
    opened = open_bundle(bundle)
    preprocessing = opened.manifest.preprocessing
    if save is not None:
        _refuse_own_folder(images, save)
        save.mkdir(parents=True, exist_ok=True)
    if images.is_file():
        frames: Iterator[Frame] = iter([_frame(images)])
    elif images.is_dir():
        frames = FolderCamera(images).frames()
    else:
        raise InputError(f"{images} is neither a file nor a folder. Give an image, or a folder of images.")
    engine = open_engine(opened)
    check_golden(engine, opened)
    for frame in frames:
        yield _look(frame, engine, preprocessing, save)
    engine.close()


def open_source(config: Path, camera: Path | None) -> Camera:
    """The camera of a configuration, or the folder or video that `camera` names."""
    if camera is None:
        settings = read_config(config)
        if len(settings.cameras) > 1:
            names = ", ".join(settings.cameras)
            raise InputError(
                f"{config} has several cameras ({names}). Record from one at a time: a copy of it with that one alone."
            )
        return open_camera(settings.cameras[settings.camera])
    return FolderCamera(camera) if camera.is_dir() else VideoFileCamera(camera)


def record_frames(camera: Camera, folder: Path, count: int, problem: Callable[[str], None]) -> int:
    """Write the next `count` whole frames to an empty folder as 000001.png ...; return how many there were.

    Frames that can't be read go to `problem` and don't count. InputError where the folder isn't empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder; nothing is overwritten. Give another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    recorded = 0
    for frame in camera.frames():
        if frame.image is None:
            problem(f"{frame.error}")
            continue
        recorded += 1
        write_png(folder / f"{recorded:06}.png", frame.image, keep=True)
        if recorded == count:
            break
    camera.close()
    return recorded


def _frame(path: Path) -> Frame:
    now = (clock.utc(), monotonic_ns())
    try:
        return Frame(path.name, *now, image=read_image(path))
    except ImageError as error:
        return Frame(path.name, *now, error=str(error), reason="bad_frame")


def _look(frame: Frame, engine: Engine, preprocessing: Preprocessing, save: Path | None) -> Looked:
    if frame.image is None:
        return Looked(frame.name, unknown(frame.reason or "bad_frame"), frame.error)
    try:
        image = prepare(frame.image, preprocessing)
    except ImageError as error:
        return Looked(frame.name, unknown("wrong_size"), str(error))
    try:
        scores = engine.run(image[None])
    except EngineError as error:
        return Looked(frame.name, unknown("engine_failed"), str(error))
    size = (frame.image.shape[1], frame.image.shape[0])
    decision = decide(scores, preprocessing=preprocessing, frame_size=size)
    if decision.verdict == "unknown":
        return Looked(frame.name, decision)
    picture = None
    if save is not None:
        picture = save / f"{frame.name.replace('/', '_')}.png"
        write_png(picture, overlay(image, scores.anomaly_map[0]))
    return Looked(frame.name, decision, None, float(scores.image_score[0]), float(scores.raw_score[0]), picture)


def _refuse_own_folder(images: Path, save: Path) -> None:
    """Pictures of anomaly maps among the parts would be parts the next time, or overwrite one."""
    source = (images if images.is_dir() else images.parent).resolve()
    if save.resolve() == source or (source in save.resolve().parents and images.is_dir()):
        raise InputError(f"--save {save} lies in the folder of the images. Give a folder outside of {images}.")
