"""What is wrong, and where: `edge_agent check` looks at everything that `run` needs, and changes nothing."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_agent import clock
from edge_agent.bundle import Bundle, BundleError, open_bundle, read_golden
from edge_agent.cameras import CameraError
from edge_agent.cameras.open import open_camera
from edge_agent.config import AgentConfig, ConfigError, read_config
from edge_agent.connection import probe
from edge_agent.engines.child import Candidate
from edge_agent.engines.choose import NoEngine, prove
from edge_agent.engines.serve import choose_with_fallback
from edge_agent.models.appoint import engine_candidates
from edge_agent.models.check import check_models
from edge_agent.preprocess import ImageError, prepare

CAMERA_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. exit_code: 0 fine, 1 it failed, 2 what the user gave is wrong."""

    subject: str
    text: str
    exit_code: int = 0


def check(target: Path) -> Iterator[Finding]:
    """Findings about a configuration file, or about a bundle where `target` is a folder; each as soon as known."""
    if target.is_dir():
        yield from check_bundle(lambda: open_bundle(target))
        return
    try:
        config = read_config(target)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield Finding("config", line, 2)
        return
    yield Finding("config", f"{target} is valid")
    bundles: dict[Path, Bundle] = {}
    for folder in dict.fromkeys(config.bundles.values()):
        opened: list[Bundle] = []
        yield from check_bundle(partial(open_bundle, folder, public_key=config.public_key), config, opened)
        if opened:
            bundles[folder] = opened[0]
    yield from (Finding(*said) for said in check_models(config, bundles))
    for camera in config.cameras:
        of = [bundles[folder] for (_, name), folder in config.bundles.items() if name == camera and folder in bundles]
        yield _check_camera(config, camera, of)
    if config.commands.enabled:
        yield _check_clock(config)
    yield _check_outbox(config.outbox.path)
    yield _check_broker(config)


def check_bundle(
    open_it: Callable[[], Bundle], config: AgentConfig | None = None, opened: list[Bundle] | None = None
) -> Iterator[Finding]:
    """Integrity, then the golden set on this device with the engine that the configuration names."""
    try:
        bundle = open_it()
    except BundleError as error:
        yield Finding("bundle", str(error), 2)
        return
    if opened is not None:
        opened.append(bundle)
    manifest = bundle.manifest
    yield Finding("bundle", f"{bundle.folder} is whole: {manifest.name} version {manifest.version} ({manifest.system})")
    try:
        read_golden(bundle)
    except BundleError as error:
        yield Finding("golden set", str(error), 2)
        return
    yield from _check_engine(bundle, config)


def _check_engine(bundle: Bundle, config: AgentConfig | None) -> Iterator[Finding]:
    """The choice that `run` would make; a bundle alone is held to ONNX Runtime, which every device has."""
    kind = config.engine.kind if config else "onnxruntime"
    of = engine_candidates(config) if config else [Candidate("onnxruntime")]
    threads, spare = config.engine.threads if config else None, None
    if config and config.engine.fallback and kind != "replay":
        spare = Candidate("onnxruntime", threads=threads)
    timeout_s = config.engine.timeout_s if config else 10.0
    try:
        choice, why = choose_with_fallback(
            of, spare, lambda candidate, measure: prove(bundle, candidate, timeout_s=timeout_s, measure=measure), kind
        )
    except NoEngine as error:
        for refused in error.refused:
            yield Finding("golden set", refused.reason, 1)
        return
    proved, result = choice.proved, choice.proved.golden
    proved.engine.close()
    yield Finding(
        "golden set",
        f"{proved.engine.name} agrees on {result.n} images (map error {result.map_error:.1e}, "
        f"score error {result.score_error:.1e}, {result.verdict_flips} verdict flips)",
    )
    if kind == "onnxruntime":
        return
    serves_instead = proved.candidate not in of
    for each in choice.refused:
        wrong = serves_instead and each.candidate not in choice.not_built
        yield Finding(f"engine {each.candidate}", each.reason, 1 if wrong else 0)
    yield Finding("engine", f"{proved} serves: {why}")


def _check_camera(config: AgentConfig, name: str, bundles: list[Bundle]) -> Finding:
    """One frame, whether it can be used, and by each bundle that is to judge it."""
    subject = f"camera {name}"
    try:
        camera = open_camera(config.cameras[name])
    except CameraError as error:
        return Finding(subject, str(error), 2)
    too_long = threading.Timer(CAMERA_PATIENCE_S, camera.close)  # one that waits for its trigger may never answer
    too_long.start()
    try:
        frame = next(iter(camera.frames()), None)
    except CameraError as error:
        return Finding(subject, str(error), 1)
    finally:
        too_long.cancel()
        camera.close()
    if frame is None:
        text = f"{camera.name} gave no frame within {CAMERA_PATIENCE_S:g} s. Trigger it while it is checked."
        return Finding(subject, text, 1)
    if frame.image is None:
        return Finding(subject, f"The first frame can't be used: {frame.error}", 1)
    height, width = frame.image.shape[:2]
    for bundle in bundles:
        try:
            prepare(frame.image, bundle.manifest.preprocessing)
        except ImageError as error:
            return Finding(subject, f"{bundle.folder}: {error}" if len(bundles) > 1 else str(error), 2)
    return Finding(subject, f"gives frames of {width} x {height} pixels")


def _check_outbox(path: Path) -> Finding:
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        text = f"{folder} can't be written. Give the agent's user the right to, or set outbox.path to another folder."
        return Finding("outbox", text, 1)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        return Finding("outbox", f"{folder} can't be written ({error.strerror}). Make room, or set outbox.path.", 1)
    if path.is_dir():
        return Finding("outbox", f"{path} is a folder. outbox.path is a file, which the agent makes.", 2)
    if path.exists() and not _is_database(path):
        return Finding("outbox", f"{path} is not an outbox. The agent would set it aside; give another outbox.path.", 2)
    return Finding("outbox", f"{folder} can be written")


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) in (b"SQLite format 3\0", b"")


def _check_clock(config: AgentConfig) -> Finding:
    """Commands expire by it."""
    if clock.time_sync() == "ok":
        return Finding("clock", "is disciplined, so commands expire when they should")
    if config.commands.allow_free_running_clock:
        return Finding("clock", "is disciplined by nothing; commands are taken all the same, as configured")
    text = "Nothing disciplines this device's clock, so every command will be refused. Run NTP or PTP."
    return Finding("clock", text, 1)


def _check_broker(config: AgentConfig) -> Finding:
    outcome = probe(config.mqtt, config.client_id)
    where = f"{config.mqtt.host}:{config.mqtt.port}"
    if outcome.status == "connected":
        return Finding("broker", f"{where} accepts the login, MQTT {config.mqtt.version}")
    code = 1 if outcome.status in ("unreachable", "connecting") else 2
    return Finding("broker", outcome.text, code)
