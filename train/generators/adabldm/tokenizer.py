"""Prompts to token ids: CLIP's byte-pair encoding, hashed words, and labels.

CLIP's encoding (Sennrich et al. 2016, arXiv:1508.07909, on bytes) starts from single bytes and joins the pair that
stands first in a list of 48 894 merges, again and again. The list is the user's: OpenAI's bpe_simple_vocab_16e6.txt.gz,
or merges.txt of a published tokenizer. Prompts are short, so a reader of our own does; it needs no other package.
"""

import gzip
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

MERGES = 48_894  # 49 152 - 256 bytes - 2 markers; longer lists are cut here, as CLIP does it
WORD_END = "</w>"
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
START, END = "<|startoftext|>", "<|endoftext|>"

Ids = Int[np.ndarray, "n t"]


class PromptError(ValueError):
    """A prompt that the system can't read; the text says why and what would do."""


@runtime_checkable
class PromptReader(Protocol):
    """Prompts -> what their tower takes."""

    def ids(self, prompts: Sequence[str]) -> Ids: ...


class ClipTokenizer:
    """CLIP's byte-pair encoding, each prompt between its markers and filled up with the end marker."""

    def __init__(self, merges: Sequence[tuple[str, str]], tokens: int = 77):
        symbols = [*_SYMBOLS, *[symbol + WORD_END for symbol in _SYMBOLS], *["".join(pair) for pair in merges]]
        self.size = len(symbols) + 2
        self.tokens = tokens
        self.vocabulary = {symbol: number for number, symbol in enumerate([*symbols, START, END])}
        self._rank = {pair: rank for rank, pair in enumerate(merges)}

    def ids(self, prompts: Sequence[str]) -> Ids:
        """
        Raises:
            PromptError: a prompt has more tokens than there is room for.
        """
        rows = np.full((len(prompts), self.tokens), self.vocabulary[END], np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            inner = self.encode(prompt)
            if len(inner) > self.tokens - 2:
                raise _too_long(prompt, len(inner), self.tokens - 2)
            row[0] = self.vocabulary[START]
            row[1 : len(inner) + 1] = inner
        return rows

    def encode(self, text: str) -> list[int]:
        """Without markers."""
        return [self.vocabulary[symbol] for word in _words(text) for symbol in self._joined(word)]

    def _joined(self, word: str) -> list[str]:
        if word in (START, END):
            return [word]
        symbols = [_SYMBOL_OF_BYTE[byte] for byte in word.encode()]
        symbols[-1] += WORD_END
        while len(symbols) > 1:
            first = min(pairwise(symbols), key=lambda pair: self._rank.get(pair, MERGES))
            if first not in self._rank:
                break
            symbols = _merged(symbols, first)
        return symbols


class HashedWords:
    """Words by a hash of their letters; 0 fills up. Two words may share an id."""

    def __init__(self, size: int, tokens: int):
        self.size, self.tokens = size, tokens

    def ids(self, prompts: Sequence[str]) -> Ids:
        """
        Raises:
            PromptError: a prompt has more words than there is room for.
        """
        rows = np.zeros((len(prompts), self.tokens), np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            words = list(_words(prompt))
            if len(words) > self.tokens:
                raise _too_long(prompt, len(words), self.tokens)
            row[: len(words)] = [1 + zlib.crc32(word.encode()) % (self.size - 1) for word in words]
        return rows


class Labels:
    """Whole prompts that a system was trained with, numbered from 1; 0 is the empty prompt."""

    def __init__(self, prompts: Sequence[str]):
        self.known = ("", *prompts)

    def ids(self, prompts: Sequence[str]) -> Ids:
        """
        Raises:
            PromptError: a prompt is not one of the known.
        """
        for prompt in prompts:
            if prompt not in self.known:
                raise PromptError(
                    f'The prompt "{prompt}" is not one that this system was trained with. It knows: '
                    + ", ".join(f'"{known}"' for known in self.known[1:])
                    + ". Free prompts need a CLIP text encoder."
                )
        return np.array([[self.known.index(prompt)] for prompt in prompts], np.int32).reshape(len(prompts), 1)


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The list of merges, gzipped or not; the first line is a title.

    Raises:
        PromptError: the file is not there or is no such list.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise PromptError(f"{path} can't be read as a list of CLIP's merges ({error}). {_BRING}") from error
    merges = []
    for number, line in enumerate(text.splitlines()[1 : MERGES + 1], start=2):
        parts = line.split()
        if len(parts) != 2:
            raise PromptError(f"{path}, line {number} is {line[:40]!r}, not a pair of symbols to merge. {_BRING}")
        merges.append((parts[0], parts[1]))
    return merges


_BRING = (
    "Bring OpenAI's bpe_simple_vocab_16e6.txt.gz (CLIP's repository, clip/) or merges.txt of a published tokenizer."
)


def _too_long(prompt: str, found: int, allowed: int) -> PromptError:
    start = prompt if len(prompt) <= 60 else prompt[:57] + "..."
    return PromptError(f'The prompt "{start}" has {found} tokens; at most {allowed} are read. Shorten it.')


def _words(text: str) -> Iterator[str]:
    """Markers, contractions, runs of letters, single digits, runs of anything else but space; in small letters."""
    text = unicodedata.normalize("NFC", text).lower()
    place = 0
    while place < len(text):
        known = next((w for w in (START, END, *CONTRACTIONS) if text.startswith(w, place)), None)
        kind = _kind(text[place])
        end = place + len(known or " ")
        while known is None and kind in "LO" and end < len(text) and _kind(text[end]) == kind:
            end += 1
        if known is not None or kind != "S":
            yield text[place:end]
        place = end


def _kind(character: str) -> str:
    """Letter, number, space or other."""
    category = unicodedata.category(character)
    return category[0] if category[0] in "LN" else "S" if character.isspace() else "O"


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Every occurrence of a pair joined, from the left."""
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


@cache
def _printable_bytes() -> tuple[int, ...]:
    """The bytes that stand for themselves; the others are given letters from 256 on."""
    return (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))


def _symbols() -> dict[int, str]:
    """Byte -> the letter that stands for it, in the order of CLIP's ids."""
    others = [byte for byte in range(256) if byte not in _printable_bytes()]
    return {b: chr(b) for b in _printable_bytes()} | {b: chr(256 + n) for n, b in enumerate(others)}


_SYMBOL_OF_BYTE = _symbols()
_SYMBOLS = tuple(_SYMBOL_OF_BYTE.values())
