"""A part's id from a QR code or barcode in its frame; nobody waits for long for one that is not there."""

import threading
import time

import cv2
import numpy as np
import pytest

from edge_agent.parts.codes import CodeReader
from edge_agent.parts.settings import CodeConfig

PATIENT = {"timeout_ms": 10_000.0}
EAN = "4006381333931"


def with_qr(text, *, size=(480, 640), at=(60, 80), edge=200):
    """uint8 [h, w, 3]: grey noise with a QR code."""
    image = np.random.default_rng(0).integers(170, 190, (*size, 1), np.uint8)
    code = cv2.resize(cv2.QRCodeEncoder.create().encode(text), (edge, edge), interpolation=cv2.INTER_NEAREST)
    image[at[0] : at[0] + edge, at[1] : at[1] + edge, 0] = code
    return np.ascontiguousarray(np.broadcast_to(image, (*size, 3)))


def with_ean13(digits):
    """uint8 [200, 400, 3]: the bars of EAN-13, by its published tables."""
    left = [
        "0001101",
        "0011001",
        "0010011",
        "0111101",
        "0100011",
        "0110001",
        "0101111",
        "0111011",
        "0110111",
        "0001011",
    ]
    parity = ["LLLLLL", "LLGLGG", "LLGGLG", "LLGGGL", "LGLLGG", "LGGLLG", "LGGGLL", "LGLGLG", "LGLGGL", "LGGLGL"]
    right = ["".join("10"[int(bit)] for bit in code) for code in left]
    bits = "101"
    for digit, side in zip(digits[1:7], parity[int(digits[0])], strict=True):
        bits += left[int(digit)] if side == "L" else right[int(digit)][::-1]
    bits += "01010" + "".join(right[int(digit)] for digit in digits[7:]) + "101"
    bars = np.repeat(np.array([255 * (bit == "0") for bit in bits], np.uint8), 3)
    image = np.full((200, 400), 200.0)
    image[40:160, 50 : 50 + len(bars)] = 30 + 0.66 * bars
    noisy = image + np.random.default_rng(0).integers(-8, 9, image.shape)
    image = cv2.GaussianBlur(noisy.astype(np.uint8), (3, 3), 0)  # as a camera sees it
    return np.ascontiguousarray(np.broadcast_to(image[..., None], (200, 400, 3)))


@pytest.fixture
def read():
    """Read one picture with these settings."""
    readers = []

    def read_one(image, **settings):
        reader = CodeReader(CodeConfig(**{**PATIENT, **settings}))
        readers.append(reader)
        return reader.begin(image).text()

    yield read_one
    for reader in readers:
        reader.close()


def test_a_qr_code_names_the_part(read):
    assert read(with_qr("PART-0817")) == "PART-0817"
    assert read(with_qr("PART-0817"), kind="barcode") is None


def test_a_barcode_names_the_part(read):
    assert read(with_ean13(EAN)) == EAN
    assert read(with_ean13(EAN), kind="qr") is None
    large = cv2.resize(with_ean13(EAN), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert read(np.ascontiguousarray(large)) == EAN


def test_a_large_frame_is_searched_at_half_its_size_first(read):
    assert read(with_qr("PART-0817", size=(1200, 1600), at=(300, 500), edge=250)) == "PART-0817"


def test_only_the_region_is_searched(read):
    image = with_qr("PART-0817")
    assert read(image, region=(40, 20, 300, 300)) == "PART-0817"
    assert read(image, region=(320, 0, 320, 480)) is None
    assert read(image, region=(9000, 9000, 10, 10)) is None  # outside of the frame


@pytest.mark.parametrize("text", ["x" * 129, "a\nb"])
def test_a_code_that_can_be_no_name_is_none(read, text):
    assert read(with_qr(text, edge=220)) is None


def test_nobody_waits_longer_than_told_and_what_waited_is_passed_over():
    reader, go, begun = CodeReader(CodeConfig(timeout_ms=50.0)), threading.Event(), []
    find = reader._find

    def slowly(grey):
        begun.append(grey)
        go.wait(60)
        return find(grey)

    reader._find = slowly
    since = time.monotonic()
    readings = [reader.begin(with_qr("PART-0817")) for _ in range(20)]
    assert [reading.text() for reading in readings] == [None] * 20
    assert time.monotonic() - since < 30  # the one that hangs would have taken 60
    go.set()
    reader.close()
    assert len(begun) <= 1
