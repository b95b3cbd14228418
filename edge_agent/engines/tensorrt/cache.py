"""Engine files on disk: what each is for, whether it is whole, and whether it has proved itself on this device.

    CACHE/<sha256>.engine          what TensorRT built, named by its content
          <key>-<sha256>.json      its side file: the key in plain words, the digest, the proof on the golden set
          timing-*.timing          what TensorRT measured, for the next build (timing.py)
          .lock                    one build at a time

An engine file is code for the GPU: only the agent's user may write the folder. Both files appear whole, by a rename;
the side file comes last, so that one exists only beside its engine file.
"""

import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent import clock
from edge_agent.durable import sync_folder
from edge_agent.engines import EngineError, EngineNotBuilt
from edge_agent.engines.golden import GoldenResult
from edge_agent.engines.tensorrt.api import NAMES, Flavour
from edge_agent.engines.tensorrt.cuda import Gpu

logger = logging.getLogger(__name__)
ENGINE, SIDE, TEMPORARY, LOCK = ".engine", ".json", ".writing", ".lock"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineKey(_Part):
    """All that an engine file depends on. Another value of any field means another engine file."""

    onnx_sha256: str
    flavour: Flavour
    tensorrt: str  # full version
    sm: str  # compute capability, "8.7"
    gpu: str | None  # its name; None: built ahead of time for any GPU of this compute capability
    cuda: str | None  # of the driver; None: built ahead of time
    precision: str  # written in the graph
    image: tuple[int, int]  # height, width
    batch_sizes: tuple[int, int, int]  # smallest, best, largest
    builder_flags: dict[str, int | bool | str | None]
    dla_core: int | None = None

    @property
    def digest(self) -> str:
        return sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def misfit(self, tensorrt: str, here: Gpu) -> str | None:
        """Why an engine of this key can't run here; None where it can."""
        name = NAMES[self.flavour]
        for what, built, found in (
            (name, self.tensorrt, tensorrt),
            ("compute capability", self.sm, here.sm),
            ("GPU", self.gpu, here.name),
            ("CUDA", self.cuda, here.cuda),
        ):
            if built is not None and built != found:
                return f"it was built for {what} {built}, here is {found}"
        return None

    def on(self, here: Gpu) -> "EngineKey":
        """The key of this engine on one GPU: what was built ahead of time for any is now proved on one."""
        return self.model_copy(update={"gpu": here.name, "cuda": here.cuda})


class Proof(_Part):
    """That the engine agreed with the golden set of a bundle on the device of its key, when, and how closely."""

    when: str
    bundle: str  # digest
    n: int
    map_error: float
    score_error: float
    verdict_flips: int


class Refusal(_Part):
    """That the engine failed the golden set of a bundle; its engine file is gone."""

    when: str
    bundle: str  # digest
    why: str


class Side(_Part):
    """The side file of an engine file."""

    format: int = 1
    key: EngineKey
    engine: str  # file name
    sha256: str
    size_bytes: int
    product: str
    bundle_version: int
    built: str
    build_seconds: float
    trtexec: str
    proof: Proof | None = None
    refused: Refusal | None = None


@dataclass(frozen=True)
class Entry:
    """An engine file that the cache knows of."""

    path: Path  # of the side file
    side: Side

    @property
    def engine(self) -> Path:
        return self.path.with_name(self.side.engine)

    @property
    def is_proved(self) -> bool:
        return self.side.proof is not None


def default_folder() -> Path:
    """FAULTLINE_CACHE, else systemd's CacheDirectory, else the user's cache."""
    for name in ("FAULTLINE_CACHE", "CACHE_DIRECTORY"):
        if os.environ.get(name):
            return Path(os.environ[name].split(":")[0])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faultline"


@dataclass
class EngineCache:
    folder: Path
    unreadable: list[str] = field(
        default_factory=list
    )  # side files that the last `entries` could not use, as sentences

    def entries(self) -> list[Entry]:
        """All side files that can be read, proved ones first, then the newest first."""
        found, self.unreadable = [], []
        for path in sorted(self.folder.glob("*" + SIDE)):
            try:
                side = Side.model_validate_json(path.read_bytes())
                if Path(side.engine).name != side.engine or path.name != _side_name(side):
                    raise ValueError("its name and content don't belong together")
            except (OSError, ValueError) as error:
                why = f"it has {error.error_count()} wrong fields" if isinstance(error, ValidationError) else error
                self.unreadable.append(f"{path} can't be used: {why}")
                continue
            found.append(Entry(path, side))
        return sorted(found, key=lambda entry: (entry.is_proved, entry.side.built), reverse=True)

    def of_model(self, onnx_sha256: str, flavour: Flavour) -> list[Entry]:
        return [e for e in self.entries() if (e.side.key.onnx_sha256, e.side.key.flavour) == (onnx_sha256, flavour)]

    def read(self, entry: Entry) -> bytes:
        """The engine file; EngineNotBuilt where it isn't what was written."""
        try:
            data = entry.engine.read_bytes()
        except OSError as error:
            raise EngineNotBuilt(f"{entry.engine} can't be read ({error.strerror})") from error
        if len(data) != entry.side.size_bytes:
            raise EngineNotBuilt(
                f"{entry.engine} is damaged: it has {len(data)} bytes, {entry.path.name} says {entry.side.size_bytes}"
            )
        if (found := sha256(data).hexdigest()) != entry.side.sha256:
            raise EngineNotBuilt(
                f"{entry.engine} is damaged: its sha256 is {found[:12]}, {entry.path.name} says "
                f"{entry.side.sha256[:12]}"
            )
        return data

    def store(
        self, key: EngineKey, data: bytes | memoryview, *, product: str, version: int, seconds: float, trtexec: str
    ) -> Entry:
        """Write an engine file and its side file, not proved yet. Whatever was proved before stays."""
        digest = sha256(data).hexdigest()
        side = Side(
            key=key,
            engine=digest[:32] + ENGINE,
            sha256=digest,
            size_bytes=len(data),
            product=product,
            bundle_version=version,
            built=now(),
            build_seconds=round(seconds, 3),
            trtexec=trtexec,
        )
        write(self.folder / side.engine, data)
        return self._write_side(side)

    def prove(self, entry: Entry, result: GoldenResult, bundle: str, here: Gpu) -> Entry:
        """Note that it agreed with the golden set, here."""
        proof = Proof(when=now(), bundle=bundle, **vars(result))
        key = entry.side.key.on(here)
        proved = self._write_side(entry.side.model_copy(update={"key": key, "proof": proof, "refused": None}))
        if proved.path != entry.path:
            entry.path.unlink(missing_ok=True)
        return proved

    def refuse(self, entry: Entry, why: str, bundle: str) -> None:
        """Note that it failed the golden set. Nothing runs it again; its engine file is removed."""
        self._write_side(
            entry.side.model_copy(update={"proof": None, "refused": Refusal(when=now(), bundle=bundle, why=why)})
        )
        if not any(e.side.engine == entry.side.engine and e.side.refused is None for e in self.entries()):
            entry.engine.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time in a cache: two would starve each other of memory."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise EngineError(
                f"The engine cache {self.folder} can't be written ({error.strerror}). Give the agent's user the right "
                "to, or name another folder with --cache."
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EngineError(
                    f"Another build is under way in {self.folder}. Wait until it has ended, or name another --cache."
                ) from None
            for left in self.folder.glob("*" + TEMPORARY):  # of a build that was killed
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)

    def remove_replaced(self, newest: Entry) -> None:
        """What a proved engine makes superfluous; call it under the lock.

        That is every older engine of the same model for this kind of GPU. Of the product's other versions the newest
        proved one stays, for a way back.
        """
        key, ways_back = newest.side.key, 0
        for entry in self.entries():
            other = entry.side.key
            if (other.flavour, other.sm) != (key.flavour, key.sm) or entry.side.built >= newest.side.built:
                continue
            if other.onnx_sha256 != key.onnx_sha256:
                if entry.side.product != newest.side.product:
                    continue
                if entry.is_proved and not ways_back:
                    ways_back += 1
                    continue
            entry.path.unlink(missing_ok=True)
            logger.info("%s was replaced by %s and is removed.", entry.path.name, newest.path.name)
        named = {entry.side.engine for entry in self.entries()}
        for path in self.folder.glob("*" + ENGINE):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _write_side(self, side: Side) -> Entry:
        path = self.folder / _side_name(side)
        write(path, side.model_dump_json(indent=1).encode())
        return Entry(path, side)


def write(path: Path, data: bytes | memoryview) -> None:
    """`path` with this content, whole and on disk when this returns, or as it was before."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=TEMPORARY, delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise EngineError(
            f"{path} can't be written ({error.strerror}). Make room, or give the agent's user the right to."
        ) from error


def now() -> str:
    return clock.now()


def _side_name(side: Side) -> str:
    return f"{side.key.digest[:24]}-{side.sha256[:8]}{SIDE}"
