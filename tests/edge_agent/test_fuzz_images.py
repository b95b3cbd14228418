"""Whatever an image file holds: pixels of the promised kind, or an ImageError that names the file, in bounded time."""

import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.image_header import MAX_PIXELS
from edge_agent.preprocess import ImageError, decode

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
FORMATS = (".png", ".jpg", ".bmp", ".tiff", ".webp")
SOUND = {suffix: cv2.imencode(suffix, PICTURE)[1].tobytes() for suffix in FORMATS}
FUZZ = settings(max_examples=200)


def outcome(data):
    began = time.monotonic()
    try:
        image = decode(data, "part.bin")
    except ImageError as error:
        assert "part.bin" in str(error)
        return None
    finally:
        assert time.monotonic() - began < 10.0
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS
    return image


def with_sums(data):
    """A PNG whose chunks have right checksums again, so that what was changed is looked at."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        out += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


@FUZZ
@given(suffix=st.sampled_from(FORMATS), data=st.data())
def test_any_damage_to_a_sound_file(suffix, data):
    sound = bytearray(SOUND[suffix])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, min(len(sound) - 1, 200)) | st.integers(0, len(sound) - 1))
        sound[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    damaged = bytes(sound)
    outcome(damaged)
    if suffix == ".png":
        outcome(with_sums(damaged))


@FUZZ
@given(suffix=st.sampled_from(FORMATS), cut=st.integers(0, 2**16), tail=st.binary(max_size=40))
def test_any_end_of_a_file(suffix, cut, tail):
    sound = SOUND[suffix]
    outcome(sound[: cut % len(sound)] + tail)


@FUZZ
@given(width=st.integers(0, 2**32 - 1), height=st.integers(0, 2**32 - 1), depth=st.integers(0, 255),
       color=st.integers(0, 255), interlace=st.integers(0, 255))  # fmt: skip
def test_any_header_of_a_png(width, height, depth, color, interlace):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4)
    for kind, body in ((b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + bytes(4)
    outcome(with_sums(data))


@FUZZ
@given(
    fields=st.lists(st.integers(0, 2**16 - 1) | st.integers(0, 2**32 - 1), min_size=0, max_size=40), big=st.booleans()
)
def test_any_directory_of_a_tiff(fields, big):
    order = ">" if big else "<"
    body = b"".join(struct.pack(order + ("H" if each < 2**16 else "I"), each) for each in fields)
    outcome((b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", 8) + body)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_sound_files_are_sound(suffix):
    assert outcome(SOUND[suffix]).shape == PICTURE.shape
