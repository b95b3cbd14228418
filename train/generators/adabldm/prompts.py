"""What reads prompts for a text tower: labels, hashed words, or CLIP's tokenizer."""

from collections.abc import Sequence
from pathlib import Path

from train.generators.adabldm.sizes import TextSpec
from train.generators.adabldm.text import ClipSpec, LabelSpec
from train.generators.adabldm.tokenizer import (
    ClipTokenizer,
    HashedWords,
    Labels,
    PromptError,
    PromptReader,
    read_merges,
)


def reader_of(spec: TextSpec, labels: Sequence[str], merges: Path | None = None) -> PromptReader:
    """What turns prompts into the ids that a text tower of these sizes takes.

    `labels` are the prompts that a label table numbers, `merges` is CLIP's list; each is for its own tower alone.

    Raises:
        PromptError: CLIP's list is not named or can't be read.
    """
    if isinstance(spec, LabelSpec):
        return Labels(labels)
    if not isinstance(spec, ClipSpec):
        return HashedWords(spec.words, spec.tokens)
    if merges is None:
        raise PromptError("CLIP's text encoder reads prompts by its list of merges, and none is named: set merges.")
    return ClipTokenizer(read_merges(merges), spec.tokens)
