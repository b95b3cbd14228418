"""Prompts: the sentences that name a product and its defects, and what reads them for a text tower.

Sheet: "Inference (exact)". A template may hold {object} and {defect}.
"""

from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from train.generators.adabldm.config import AdaBLDMConfig
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


def prompts_of(config: AdaBLDMConfig, product: str) -> tuple[str, ...]:
    """That of a part without a defect, then one for each category: what a label table numbers from 1 on."""
    normal = fill(config.normal_prompt, product)
    return (normal, *(fill(config.prompt, product, category) for category in config.categories))


def fill(template: str, product: str, defect: str = "") -> str:
    """The sentence for a defect of a product; underscores of folders' names become spaces.

    Raises:
        PromptError: the template's braces don't pair or hold anything else.
    """
    words = {"object": _spoken(product), "defect": _spoken(defect)}
    try:
        blanks = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        if wrong := sorted(blanks - words.keys()):
            raise ValueError(f"{{{wrong[0]}}} is no blank")
        return template.format(**words)
    except ValueError as error:
        raise PromptError(
            f'The prompt "{template}" can\'t be filled in: {error}. Its blanks are {{object}} and {{defect}}.'
        ) from None


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


def _spoken(name: str) -> str:
    return name.replace("_", " ").strip()
