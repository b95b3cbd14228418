"""AdaBLDM as a synthesis job sees it: a mask on the part, in the region asked for, then the way from noise to image.

The mask is one of the few that the run learned from, or one of the user's, turned, scaled and moved to one of all
places that hold it (sheet: "Inference (exact)"); a trimap of the user's stays where it is. An image hangs on its own
seed and index alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8
from pydantic import ValidationError

from edge_agent.preprocess import prepare, read_image
from train.config import ConfigError
from train.data.samples import shown
from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.drawing import Drawing, Drawn, Manner
from train.generators.adabldm.fidelity import fidelity_of, rounded
from train.generators.adabldm.foreground import LEAST, MOST
from train.generators.adabldm.frozen import MERGES
from train.generators.adabldm.pairs import Turns, place, trimap_of
from train.generators.adabldm.prompts import reader_of
from train.generators.adabldm.sampler import Asked
from train.generators.adabldm.shapes import Shape, read_shapes, read_trimaps
from train.generators.adabldm.sheet import columns_of, strips
from train.generators.adabldm.tokenizer import PromptError
from train.generators.adabldm.weights import AdaBLDMWeights, computing_in, foreground_of
from train.generators.run import TrainedGenerator
from train.pictures import to_bytes
from train.synthesis.errors import SynthesisError
from train.synthesis.foreground import NoForeground
from train.synthesis.regions import Region
from train.synthesis.run_painter import RunPainter, keys_of
from train.synthesis.task import Images, Painting, Regions, Task, region_of
from train.synthesis.wishes import Wishes

AT_ONCE = {"tiny": 8, "small": 8, "sd15": 2}  # images, where they are drawn by one program; in turn it is one
PLACE = 3  # folded into an image's key beside sampler.START and the others
_SHAPE = 3  # the second part of the key that a shape is chosen by
REMEMBERED = 4096  # foregrounds
OFF_THE_PART = 0.1  # of a defect's pixels in a user's trimap, that may lie off the part as it is found


class Asks(NamedTuple):
    """Of a batch: where defects are to be, and where the part is."""

    mask: Bool[np.ndarray, "n s s"]
    foreground: Bool[np.ndarray, "n s s"]


class AdaBLDMPainter(RunPainter):
    """Implements `train.synthesis.task.Painter`. ConfigError for wishes that can't be fulfilled."""

    def __init__(self, run: TrainedGenerator, wishes: Wishes):
        self.trained: AdaBLDMConfig = run.config  # type: ignore[assignment]
        self.config = wished(self.trained, wishes)
        self.in_turn = jax.default_backend() == "cpu"
        super().__init__(run, f"jax on {jax.default_backend()}", wishes.batch or self._at_once)
        if self.batch < 1:
            raise ConfigError(f"--batch is {self.batch}. Give 1 or more.")
        if wishes.shape is not None and wishes.trimap is not None:
            raise ConfigError("--shape and --trimap both say what a defect looks like. Leave one out.")
        self.sheets = wishes.sheets
        self.placed = wishes.trimap is not None
        self.shapes: tuple[Shape, ...] = ()
        if wishes.trimap is not None:
            self.shapes = read_trimaps(wishes.trimap, self.preprocessing)
        elif wishes.shape is not None:
            self.shapes = read_shapes(wishes.shape, self.preprocessing)
        self.weights: AdaBLDMWeights = run.weights
        self.masks = {name: np.asarray(masks).astype(bool) for name, masks in self.weights.masks.items()}
        self.empty, self.away, self.contexts = self._contexts()
        networks = self.weights._replace(
            denoiser=computing_in(self.config.compute, self.weights.denoiser),
            trimap_encoder=computing_in(self.config.compute, self.weights.trimap_encoder),
        )
        self.drawing = Drawing(networks, Manner(self.config.sampling, self.config.adaptation))
        self.identity = {**self.identity, "drawing": self._manner()}
        self._found: dict[bytes, np.ndarray] = {}
        self._foreground = jax.jit(partial(_foreground, self.config))
        self._place = jax.jit(jax.vmap(partial(_placed, self.config.turns)))

    @property
    def exclusive(self) -> bool:
        """A mask is one defect's, and so is a prompt."""
        return True

    def find_part(self, frame: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """By the run's own predictor; a texture is part everywhere. What lies outside the crop is no part."""
        found = np.zeros(frame.shape[:2], bool)
        x, y, width, height = self.preprocessing.crop or (0, 0, frame.shape[1], frame.shape[0])
        part = self.foreground_of(prepare(frame, self.preprocessing))
        if self.config.foreground == "predict" and not LEAST <= part.mean() <= MOST:
            raise NoForeground(
                f"the part that was found covers {part.mean():.1%} of the image; one covers {LEAST:.0%} to {MOST:.0%}"
            )
        found[y : y + height, x : x + width] = (
            cv2.resize(part.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
        )
        return found

    def foreground_of(self, image: UInt8[np.ndarray, "s s 3"]) -> Bool[np.ndarray, "s s"]:
        """Of an image at model size, found once."""
        key = hashlib.sha256(image.tobytes()).digest()
        if key not in self._found:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            self._found[key] = np.asarray(self._foreground(self.weights, jnp.asarray(image[None])))[0]
        return self._found[key]

    def check(self, tasks: Sequence[Task], region: Region) -> None:
        for task in tasks:
            if not task.categories:
                raise ConfigError(f"{self.run.system} paints defects and takes none away. Leave --restore out.")
        seen = set()
        for task in sorted(tasks, key=lambda task: task.source.name):
            shape = self._shape_of(task)
            kind = task.source, shape and shape.name
            if kind in seen:
                continue
            seen.add(kind)
            self._check(task, shape, region)

    def paint(self, images: Images, regions: Regions, tasks: Sequence[Task]) -> Painting:
        keys = keys_of(tasks)
        asks = self._asks(images, regions, tasks, keys)
        trimap = jax.vmap(trimap_of)(jnp.asarray(asks.mask), jnp.asarray(asks.foreground))
        prompt = jnp.stack([self.contexts[task.label] for task in tasks])
        empty, away = jax.tree.map(lambda one: jnp.broadcast_to(one, prompt.shape), (self.empty, self.away))
        asked = Asked(trimap, prompt, empty, away)
        try:
            drawn = self.drawing(jnp.asarray(images), asked, keys)
            sheets = self._sheets(images, trimap, drawn, asked)
            levels, before = np.asarray(drawn.levels), to_bytes(drawn.adapted.before)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            raise self._too_large(error) from error
        strength = np.array([task.strength for task in tasks], np.float32)[:, None, None]
        mixed = images + strength[..., None] * (levels - images)
        painted = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
        notes = [
            self._note(task, n, drawn, *each)
            for n, (task, *each) in enumerate(zip(tasks, images, before, painted, asks.mask, strict=True))
        ]
        return Painting(painted, asks.mask * strength, notes, sheets)

    @property
    def _at_once(self) -> int:
        return 1 if self.in_turn else AT_ONCE[self.config.size]

    def _contexts(self) -> tuple[Array, Array | None, dict[str, Array]]:
        """Of the empty prompt, of the negative one if there is one, and of each category's."""
        config, merges = self.config, self.run.folder / MERGES
        prompts = ["", config.negative_prompt, *map(config.prompt_of, self.categories)]
        try:
            reader = reader_of(config.networks.text, self.trained.prompts, merges if merges.exists() else None)
            ids = reader.ids(prompts)
        except PromptError as error:
            raise ConfigError(f"--prompt: {error}") from None
        found = self.weights.text(jnp.asarray(ids)).astype(config.compute)
        away = found[1] if config.negative_prompt else None
        return found[0], away, dict(zip(self.categories, found[2:], strict=True))

    def _manner(self) -> dict[str, Any]:
        """For provenance: what of the drawing is not the run's alone."""
        config = self.config
        return {
            "prompt": config.prompt,
            "negative_prompt": config.negative_prompt,
            "guidance": config.guidance,
            "stages": config.stages,
            "renoise": config.renoise,
            "adaptation": {
                "iterations": config.adaptation_steps,
                "learning_rate": config.adaptation_lr,
                "background_weight": config.background_weight,
            },
            "foreground": config.foreground,
            "shapes": {
                "kind": "trimap" if self.placed else "shape" if self.shapes else "learned from",
                "sha256": [shape.sha256 for shape in self.shapes],
            },
            "sheets": columns_of(config.sampling.stages) if self.sheets else (),
        }

    def _shape_of(self, task: Task) -> Shape | None:
        """The user's, one for each image by its seed and index; None where there is none."""
        return self.shapes[_chosen(task, len(self.shapes))] if self.shapes else None

    def _check(self, task: Task, shape: Shape | None, region: Region) -> None:
        frame = read_image(task.source.path)
        where = f"{shown(task.source.path)}: "
        if shape is not None and frame.shape[:2] != (shape.height, shape.width):
            raise ConfigError(
                f"{where}it is {frame.shape[1]} x {frame.shape[0]} pixels, but {shown(shape.name)} is {shape.size}. "
                "Nothing was drawn. A mask is as large as the images that it is for."
            )
        found = self.foreground_of(prepare(frame, self.preprocessing))
        part = found if shape is None or shape.foreground is None else shape.foreground
        try:
            allowed = part & region_of(task, region, frame, self)
        except NoForeground:
            return  # said by the job, which looks for the part as well
        if not allowed.any():
            raise ConfigError(
                f"{where}the region {region.text} lies off the part, which covers {part.mean():.0%} of the image. "
                "Nothing was drawn. Give a region on the part, or none."
            )
        if shape is None:
            return
        defect = int(shape.defect.sum())
        if self.placed and (off := int((shape.defect & ~allowed).sum())) > OFF_THE_PART * defect:
            raise ConfigError(
                f"{where}{off} of the {defect} pixels of the defect in {shown(shape.name)} lie off the part, or "
                f"outside the region {region.text}. Nothing was drawn. Move it, or draw the part into the trimap (127)."
            )
        if not self.placed and defect > allowed.sum():
            raise ConfigError(
                f"{where}the defect in {shown(shape.name)} has {defect} pixels at model size, more than the "
                f"{int(allowed.sum())} where it may go. Nothing was drawn. Give a smaller shape, or a larger region."
            )

    def _asks(self, images: Images, regions: Regions, tasks: Sequence[Task], keys: Key[Array, " n"]) -> Asks:
        """The masks in their places."""
        shapes = [self._shape_of(task) for task in tasks]
        foreground = np.stack(
            [
                self.foreground_of(image) if shape is None or shape.foreground is None else shape.foreground
                for image, shape in zip(images, shapes, strict=True)
            ]
        )
        if self.placed:
            given = np.stack([shape.defect for shape in shapes if shape is not None])
            return Asks(given & foreground & regions, foreground)
        masks = [
            self._learned(task) if shape is None else shape.defect for task, shape in zip(tasks, shapes, strict=True)
        ]
        placed = self._place(jnp.asarray(np.stack(masks)), jnp.asarray(foreground & regions), keys)
        return Asks(np.asarray(placed), foreground)

    def _learned(self, task: Task) -> Bool[np.ndarray, "s s"]:
        """One of the few masks of its category."""
        few = self.masks[task.label]
        mask: Bool[np.ndarray, "s s"] = few[_chosen(task, len(few))]
        return mask

    def _sheets(
        self, images: Images, trimap: Float[Array, "n s s"], drawn: Drawn, asked: Asked
    ) -> Sequence[UInt8[np.ndarray, "_h _w 3"]]:
        return strips(images, trimap, self.drawing.seen(drawn, asked), drawn) if self.sheets else ()

    def _note(
        self, task: Task, n: int, drawn: Drawn, normal: Any, before: Any, image: Any, mask: Bool[np.ndarray, "s s"]
    ) -> Mapping[str, Any]:
        """What provenance says of an image beside the manner."""
        shape = self._shape_of(task)
        terms = {name: np.asarray(values[n]) for name, values in drawn.adapted.terms._asdict().items()}
        return {
            "prompt": self.config.prompt_of(task.label),
            "shape": _chosen(task, len(self.masks[task.label])) if shape is None else shape.name,
            "mask_pixels": int(mask.sum()),
            "fidelity": rounded(fidelity_of(normal, before, image, mask)),
            "adaptation_loss": {
                name: [float(f"{values[at]:.3g}") for at in (0, -1)] for name, values in terms.items() if len(values)
            },
        }

    def _too_large(self, error: Exception) -> Exception:
        """Too little memory as a sentence that says what to lower; anything else as it is."""
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            return error
        remedy = (
            f"Give a smaller --batch: {max(self.batch // 2, 1)} instead of {self.batch}"
            if self.batch > 1
            else "One image at a time is the least: take a machine with more memory, or a run of a smaller size"
        )
        return SynthesisError(
            f"Drawing {self.batch} image{'s' * (self.batch > 1)} at once takes more memory than there is. {remedy}. "
            "What is written is whole; the same command goes on from there, in a new folder if --batch is another."
        )


def wished(config: Any, wishes: Wishes) -> AdaBLDMConfig:
    """The run's settings with the user's in their place. ConfigError for one that is none."""
    options = {"prompt": "prompt", "guidance": "guidance", "stages": "stages", "adaptation": "adaptation_steps"}
    changes = {name: value for option, name in options.items() if (value := getattr(wishes, option)) is not None}
    try:
        changed: AdaBLDMConfig = type(config).model_validate({**config.model_dump(), **changes})
    except ValidationError as errors:
        of_setting = {name: option for option, name in options.items()}
        first = errors.errors()[0]
        option = of_setting.get(str(first["loc"][0]) if first["loc"] else "", "stages")
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise ConfigError(f"--{option} is {shown(str(getattr(wishes, option)))}. {message}.") from None
    return changed


def _chosen(task: Task, count: int) -> int:
    return int(np.random.default_rng([task.seed, _SHAPE, task.index]).integers(count))


def _foreground(config: AdaBLDMConfig, weights: AdaBLDMWeights, images: UInt8[Array, "n s s 3"]) -> Array:
    return foreground_of(weights, config, images)


def _placed(turns: Turns, mask: Bool[Array, "s s"], allowed: Bool[Array, "s s"], key: Key[Array, ""]) -> Array:
    return place(mask, allowed, jax.random.fold_in(key, PLACE), turns).mask
