"""A short list of merges of a byte-pair encoding, as its training would make it of a few sentences."""

from collections import Counter
from itertools import pairwise

TEXT = (
    "a bottle with a broken large bottle, a metal nut with a scratch on the nut's edge, a hole in the leather, "
    "a defect named crack on metal surface, it isn't there, they're 12 of the holes; naïve übung"
)


def _merges(text: str, count: int) -> tuple[tuple[str, str], ...]:
    printable = {byte: chr(byte) for span in ((33, 127), (161, 173), (174, 256)) for byte in range(*span)}
    others = (byte for byte in range(256) if byte not in printable)
    letters = printable | {byte: chr(256 + number) for number, byte in enumerate(others)}
    words = [[letters[byte] for byte in word.encode()] for word in text.split()]
    for word in words:
        word[-1] += "</w>"
    merges = []
    for _ in range(count):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        (first, second), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        merges.append((first, second))
        for word in words:
            place = 0
            while place + 1 < len(word):
                if (word[place], word[place + 1]) == (first, second):
                    word[place : place + 2] = [first + second]
                place += 1
    return tuple(merges)


MERGES = _merges(TEXT, 60)
