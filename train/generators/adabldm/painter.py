"""AdaBLDM as a synthesis job sees it. An image hangs on its own seed and index alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from pydantic import ValidationError

from edge_agent.preprocess import prepare, read_image
from train.config import ConfigError
from train.data.samples import shown
from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.drawing import Drawing, Drawn, Manner
from train.generators.adabldm.fidelity import fidelity_of, rounded
from train.generators.adabldm.foreground import LEAST, MOST
from train.generators.adabldm.frozen import MERGES
from train.generators.adabldm.pairs import trimap_of
from train.generators.adabldm.placing import Placing
from train.generators.adabldm.prompts import reader_of
from train.generators.adabldm.sampler import Asked
from train.generators.adabldm.shapes import Shape, read_shapes, read_trimaps
from train.generators.adabldm.sheet import columns_of, strips
from train.generators.adabldm.tokenizer import PromptError
from train.generators.adabldm.weights import AdaBLDMWeights, computing_in
from train.generators.run import TrainedGenerator
from train.pictures import to_bytes
from train.synthesis.errors import SynthesisError
from train.synthesis.foreground import NoForeground
from train.synthesis.regions import Region
from train.synthesis.run_painter import RunPainter, keys_of
from train.synthesis.task import Images, Painting, Regions, Task, region_of
from train.synthesis.wishes import Wishes

AT_ONCE = {"tiny": 8, "small": 8, "sd15": 2}  # images, where they are drawn by one program; in turn it is one
SETTINGS = {  # and the wishes that change them
    "prompt": "prompt",
    "guidance": "guidance",
    "stages": "stages",
    "adaptation_steps": "adaptation",
    "renoise": "renoise",
}


class AdaBLDMPainter(RunPainter):
    """Implements `train.synthesis.task.Painter`. ConfigError for wishes that can't be fulfilled."""

    def __init__(self, run: TrainedGenerator, wishes: Wishes):
        trained: AdaBLDMConfig = run.config  # type: ignore[assignment]
        self.config = wished(trained, wishes)
        at_once = 1 if jax.default_backend() == "cpu" else AT_ONCE[trained.size]
        super().__init__(run, f"jax on {jax.default_backend()}", at_once if wishes.batch is None else wishes.batch)
        weights: AdaBLDMWeights = run.weights
        self.placing = Placing(weights, self.config, self._shapes(wishes), fixed=wishes.trimap is not None)
        self.sheets = wishes.sheets
        self.empty, self.away, self.contexts = self._contexts(trained, weights)
        networks = weights._replace(
            denoiser=computing_in(self.config.compute, weights.denoiser),
            trimap_encoder=computing_in(self.config.compute, weights.trimap_encoder),
        )
        self.drawing = Drawing(networks, Manner(self.config.sampling, self.config.adaptation))
        self.identity = {**self.identity, "drawing": self._manner()}

    @property
    def exclusive(self) -> bool:
        """A mask is one defect's, and so is a prompt."""
        return True

    @property
    def restores(self) -> bool:
        return False

    def find_part(self, frame: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """By the run's own predictor; a texture is part everywhere. What lies outside the crop is no part."""
        x, y, width, height = self.preprocessing.crop or (0, 0, frame.shape[1], frame.shape[0])
        part = self.placing.found(prepare(frame, self.preprocessing))
        if self.config.foreground == "predict" and not LEAST <= part.mean() <= MOST:
            raise NoForeground(
                f"the part that was found covers {part.mean():.1%} of the image; one covers {LEAST:.0%} to {MOST:.0%}"
            )
        found = np.zeros(frame.shape[:2], bool)
        found[y : y + height, x : x + width] = (
            cv2.resize(part.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
        )
        return found

    def check(self, tasks: Sequence[Task], region: Region) -> None:
        """Every image with every mask that is to go there."""
        seen = set()
        for task in sorted(tasks, key=lambda task: task.source.name):
            shape = self.placing.shape_of(task)
            if (kind := (task.source, shape and shape.name)) in seen:
                continue
            seen.add(kind)
            frame = read_image(task.source.path)
            part = self.placing.part(prepare(frame, self.preprocessing), shape)
            self.placing.check(task, frame, part, region_of(task, region, frame, self), region.text)

    def paint(self, images: Images, regions: Regions, tasks: Sequence[Task]) -> Painting:
        keys = keys_of(tasks)
        mask, foreground = self.placing.asks(images, regions, tasks, keys)
        prompt = jnp.stack([self.contexts[task.label] for task in tasks])
        empty, away = jax.tree.map(lambda one: jnp.broadcast_to(one, prompt.shape), (self.empty, self.away))
        asked = Asked(jax.vmap(trimap_of)(jnp.asarray(mask), jnp.asarray(foreground)), prompt, empty, away)
        try:
            drawn = self.drawing(jnp.asarray(images), asked, keys)
            sheets = strips(images, asked.trimap, self.drawing.seen(drawn, asked), drawn) if self.sheets else ()
            levels, before = np.asarray(drawn.levels), to_bytes(drawn.adapted.before)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            raise self._too_large(error) from error
        strength = np.array([task.strength for task in tasks], np.float32)[:, None, None]
        painted = np.rint(np.clip(images + strength[..., None] * (levels - images), 0, 255)).astype(np.uint8)
        notes = [
            self._note(task, n, drawn, *each)
            for n, (task, *each) in enumerate(zip(tasks, images, before, painted, mask, strict=True))
        ]
        return Painting(painted, mask * strength, notes, sheets)

    def _shapes(self, wishes: Wishes) -> Sequence[Shape]:
        if wishes.shape is not None and wishes.trimap is not None:
            raise ConfigError("--shape and --trimap both say what a defect looks like. Leave one out.")
        if wishes.trimap is not None:
            return read_trimaps(wishes.trimap, self.preprocessing)
        return () if wishes.shape is None else read_shapes(wishes.shape, self.preprocessing)

    def _contexts(
        self, trained: AdaBLDMConfig, weights: AdaBLDMWeights
    ) -> tuple[Float[Array, "k d"], Float[Array, "k d"] | None, dict[str, Float[Array, "_k _d"]]]:
        """Of the empty prompt, of the negative one if there is one, and of each category's."""
        config, merges = self.config, self.run.folder / MERGES
        prompts = ["", config.negative_prompt, *map(config.prompt_of, self.categories)]
        try:
            reader = reader_of(config.networks.text, trained.prompts, merges if merges.exists() else None)
            ids = reader.ids(prompts)
        except PromptError as error:
            raise ConfigError(f"--prompt: {error}") from None
        found = weights.text(jnp.asarray(ids)).astype(config.compute)
        away = found[1] if config.negative_prompt else None
        return found[0], away, dict(zip(self.categories, found[2:], strict=True))

    def _manner(self) -> dict[str, Any]:
        """For provenance: all that the drawing hangs on beside the run."""
        config, placing = self.config, self.placing
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
                "kind": "trimap" if placing.fixed else "shape" if placing.shapes else "learned from",
                "sha256": [shape.sha256 for shape in placing.shapes],
            },
            "sheets": columns_of(config.sampling.stages) if self.sheets else (),
        }

    def _note(
        self, task: Task, n: int, drawn: Drawn, normal: Any, before: Any, image: Any, mask: Bool[np.ndarray, "s s"]
    ) -> Mapping[str, Any]:
        """What provenance says of an image beside the manner."""
        terms = {name: np.asarray(values[n]) for name, values in drawn.adapted.terms._asdict().items()}
        return {
            "prompt": self.config.prompt_of(task.label),
            "shape": self.placing.said_of(task),
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
            f"Give a smaller --batch, {self.batch // 2} instead of {self.batch}, and a new folder"
            if self.batch > 1
            else "One at a time is the least: take a machine with more memory, or a run of a smaller size"
        )
        return SynthesisError(
            f"Drawing {self.batch} image{'s' * (self.batch > 1)} at once takes more memory than there is. {remedy}. "
            "What is written is whole."
        )


def wished(config: AdaBLDMConfig, wishes: Wishes) -> AdaBLDMConfig:
    """The run's settings with the user's in their place. ConfigError for one that is none."""
    changes = {name: value for name, wish in SETTINGS.items() if (value := getattr(wishes, wish)) is not None}
    try:
        return AdaBLDMConfig.model_validate({**config.model_dump(), **changes})
    except ValidationError as errors:
        first = errors.errors()[0]
        wish = SETTINGS[str(first["loc"][0])]
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise ConfigError(f"--{wish} is {shown(str(getattr(wishes, wish)))}. {message}.") from None
