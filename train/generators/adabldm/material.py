"""What AdaBLDM's training is fed: captioned images and copy-paste pairs, both made on the device of resident images.

A step is given numbers: of a normal image, of a defective one, and of the example itself, from which all is drawn that
is random about it. Latents of whole images are encoded once; those of pairs in the step.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from train.blocks.pixels import to_signed
from train.chunks import in_chunks
from train.data.batches import load_images, resident_batches
from train.data.defects import DefectSample
from train.data.samples import shown
from train.epochs import Material
from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.foreground import check_shares, foregrounds, whole
from train.generators.adabldm.frozen import Frozen, published_denoiser
from train.generators.adabldm.latents import AT_ONCE, encoded
from train.generators.adabldm.networks import Trained, Words
from train.generators.adabldm.pairs import Sources, make_pairs
from train.generators.adabldm.picture import sheet
from train.generators.adabldm.players import Captioned, Inputs, Pasted
from train.generators.adabldm.prompts import reader_of
from train.inputs import TrainingInputs
from train.progress import Work
from train.run import preprocessing_of

ORDER_OF_DEFECTIVE = 7  # added to the run's seed, so that the two orders differ
EXAMPLES, UNSEEN = 11, 12  # streams folded into the run's seed: of training, of what is held out
EMPTY, NORMAL, FIRST_CATEGORY = 0, 1, 2  # numbers of prompts


class Resident(NamedTuple):
    """What stays on the device."""

    normal: UInt8[Array, "n s s 3"]
    foreground: Bool[Array, "n s s"]
    normal_latent: Float[Array, "n h w z"]
    defective: UInt8[Array, "m s s 3"]
    mask: Bool[Array, "m s s"]
    defective_latent: Float[Array, "m h w z"]
    prompt: Int[Array, " m"]  # of the defective images
    words: Words  # of all prompts
    autoencoder: Any


def prepare(
    config: AdaBLDMConfig,
    normal: Sequence[DefectSample],
    defective: Sequence[DefectSample],
    held_out: Sequence[DefectSample],
    kept: Frozen,
) -> Material:
    """Reads and encodes all images. `held_out` are normal ones never trained on; defects are pasted on them as well."""
    preprocessing = preprocessing_of(config)
    with Work("reading images", len(normal) + len(defective) + len(held_out)) as work:
        load_all = partial(load_images, preprocessing=preprocessing, on_image=work.done)
        images, defects, unseen = (load_all([s.path for s in samples]) for samples in (normal, defective, held_out))
    of_images = partial(Resident, words=jnp.asarray(words_of(config, kept)), autoencoder=kept.autoencoder)
    of_defects = {
        "defective": jnp.asarray(defects),
        "mask": jnp.asarray(_masks(kept, defective) > 0),
        "defective_latent": jnp.asarray(encoded(kept.autoencoder, defects)),
        "prompt": jnp.asarray([FIRST_CATEGORY + config.categories.index(s.categories[0]) for s in defective]),
    }
    resident, resident_unseen = (
        of_images(
            normal=jnp.asarray(some),
            foreground=jnp.asarray(_foreground(config, kept, some, samples)),
            normal_latent=jnp.asarray(encoded(kept.autoencoder, some)),
            **of_defects,
        )
        for some, samples in ((images, normal), (unseen, held_out))
    )
    inputs_of = partial(examples, config=config)
    batches = partial(numbers, len(images), len(defects), config)
    of_unseen = jax.jit(partial(unseen_examples, config=config))(resident_unseen)
    inputs = TrainingInputs(resident, inputs_of, batches, lambda: iter([]))
    draw = partial(sheet, kept.autoencoder, of_unseen.pasted, config=config)
    return Material(inputs, of_unseen, draw, partial(_start, config) if kept.starts_from_file else None)


def numbers(
    n_normal: int, n_defective: int, config: AdaBLDMConfig, start: int, stop: int
) -> Iterator[Int[np.ndarray, "n 3"]]:
    """Each side goes through its images in an order of its own, pass after pass; examples are counted."""
    batch = config.batch_size
    normal = resident_batches(n_normal, config.seed, start=start, stop=stop, batch=batch)
    seed = config.seed + ORDER_OF_DEFECTIVE
    defective = resident_batches(n_defective, seed, start=start, stop=stop, batch=batch)
    for step, one, other in zip(range(start, stop), normal, defective, strict=True):
        yield np.stack([one, other, np.arange(step * batch, (step + 1) * batch, dtype=np.int32)], axis=1)


def examples(number: Int[Array, "n 3"], resident: Resident, config: AdaBLDMConfig) -> Inputs:
    """What a step is given; an example depends on its own numbers alone. A phase computes what it sees."""
    root = jax.random.fold_in(jax.random.key(config.seed), EXAMPLES)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(root, i), 4))(number[:, 2])
    shows_defect, is_empty, pair_is_empty = (
        jax.vmap(lambda key, share=share: jax.random.bernoulli(key, share))(keys[:, stream])
        for stream, share in ((0, config.defect_share), (1, config.empty_share), (2, config.empty_share))
    )
    of_normal, of_defective = number[:, 0], number[:, 1]
    latent = jnp.where(
        shows_defect[:, None, None, None],
        resident.defective_latent[of_defective],
        resident.normal_latent[of_normal],
    )
    prompt = jnp.where(shows_defect, resident.prompt[of_defective], NORMAL)
    captioned = Captioned(latent, resident.words[jnp.where(is_empty, EMPTY, prompt)])
    return Inputs(captioned, _pasted(resident, of_normal, of_defective, keys[:, 3], pair_is_empty, config))


def unseen_examples(resident: Resident, config: AdaBLDMConfig) -> Inputs:
    """Every held-out image, again for as many as there are defects, with its own caption and with a pasted defect."""
    number = jnp.arange(max(len(resident.normal), len(resident.defective)))
    of_normal, of_defective = number % len(resident.normal), number % len(resident.defective)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), UNSEEN), len(number))
    captions = jnp.full(len(number), NORMAL)
    captioned = Captioned(resident.normal_latent[of_normal], resident.words[captions])
    return Inputs(captioned, _pasted(resident, of_normal, of_defective, keys, captions == EMPTY, config))


def _pasted(
    resident: Resident, of_normal: Array, of_defective: Array, keys: Array, is_empty: Array, config: AdaBLDMConfig
) -> Pasted:
    sources = Sources(
        resident.normal[of_normal],
        resident.foreground[of_normal],
        resident.defective[of_defective],
        resident.mask[of_defective],
        resident.prompt[of_defective],
    )
    pairs = make_pairs(sources, keys, NORMAL, config.turns)
    latent = resident.autoencoder.encode(to_signed(pairs.image, 3))
    empty = jnp.full(len(keys), EMPTY)
    words = resident.words[jnp.where(is_empty, EMPTY, pairs.prompt)]
    return Pasted(latent, words, pairs.trimap, resident.words[empty])


def words_of(config: AdaBLDMConfig, kept: Frozen) -> Any:
    """Of the empty prompt, of a normal part, of each category: ids, or what a published text encoder makes of them."""
    labels = config.prompts
    ids = reader_of(config.networks.text, labels, kept.merges).ids(["", *labels])
    return ids if kept.text is None else _compiled_text(kept.text, jnp.asarray(ids))


@jax.jit
def _compiled_text(text: Any, ids: Int[Array, "n t"]) -> Float[Array, "n t c"]:
    context: Array = text(ids)
    return context


def _masks(kept: Frozen, defective: Sequence[DefectSample]) -> UInt8[np.ndarray, "m s s"]:
    """In the order of the samples."""
    of_category = {name: iter(masks) for name, masks in kept.masks.items()}
    return np.stack([next(of_category[sample.categories[0]]) for sample in defective])


def _foreground(
    config: AdaBLDMConfig, kept: Frozen, images: UInt8[np.ndarray, "n s s 3"], samples: Sequence[DefectSample]
) -> Bool[np.ndarray, "n s s"]:
    if (seen := config.seen) is None:
        return whole(images)
    find = partial(jax.jit(partial(foregrounds, seen)), kept.backbone, kept.discriminant)
    masks: np.ndarray = in_chunks(find, images, AT_ONCE)
    check_shares(masks, [shown(sample.path) for sample in samples])
    return masks


def _start(config: AdaBLDMConfig, model: Trained) -> None:
    """The denoiser of the user's file, and a trimap encoder that starts from it."""
    model.denoiser = published_denoiser(config)
    model.trimap_encoder.start_from(model.denoiser)
