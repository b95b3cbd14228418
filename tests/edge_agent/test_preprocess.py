"""Decoding, cropping and resizing: what is read is right, and what can't be right is refused with a sentence."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.preprocess import (
    MAX_PIXELS,
    ImageError,
    Preprocessing,
    decode,
    inspect_image,
    prepare,
    prepare_mask,
    read_image,
    read_mask,
)


def picture(height=24, width=36, seed=0) -> np.ndarray:
    """uint8 RGB, smooth enough for JPEG and different in every corner."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    """`image` (RGB, RGBA or grey) as OpenCV writes it."""
    codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    image = image if image.ndim == 2 else cv2.cvtColor(image, codes[image.shape[2]])
    good, data = cv2.imencode(suffix, image, list(options))
    assert good
    return data.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, rows: bytes, depth=8, color=2, extra=b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def exif(orientation: int) -> bytes:
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def rotated_jpeg(image: np.ndarray, orientation: int) -> bytes:
    data, block = encoded(".jpg", image), b"Exif\0\0" + exif(orientation)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def tiff(*entries: tuple[int, int, int, int], following=0, pixels=b"") -> bytes:
    """A TIFF of one directory; entries are (tag, type, count, value)."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", following) + pixels


LOSSLESS = [(".png", []), (".bmp", []), (".tiff", []), (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101])]
WRITTEN = [
    *LOSSLESS,
    (".jpg", []),
    (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 90]),
]
SIZED = Preprocessing(width=8, height=6)


@pytest.mark.parametrize(("suffix", "options"), LOSSLESS)
def test_lossless_files_come_back_in_rgb_order(suffix, options):
    image = picture()
    np.testing.assert_array_equal(decode(encoded(suffix, image, *options), "part"), image)


def test_jpeg_comes_back_close():
    image = picture()
    assert np.abs(decode(encoded(".jpg", image), "part").astype(int) - image).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
def test_grey_files_get_three_equal_channels(suffix):
    image = decode(encoded(suffix, picture()[..., 0]), "part")
    assert image.shape == (24, 36, 3)
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize(("suffix", "options"), WRITTEN)
def test_no_truncation_is_accepted(suffix, options):
    data = encoded(suffix, picture(), *options)
    for length in range(len(data)):
        with pytest.raises(ImageError, match="part "):
            decode(data[:length], "part")


def test_truncated_file_is_called_truncated():
    data = encoded(".jpg", picture())
    with pytest.raises(ImageError, match=r"^p\.jpg is truncated: the JPEG data ends too early \(\d+ bytes\)\. Copy or"):
        decode(data[:-40], "p.jpg")
    assert inspect_image(data[:-40], "p.jpg").truncated
    assert not inspect_image(data + b"camera notes", "p.jpg").truncated  # bytes behind the end are no harm


def test_exif_thumbnail_does_not_pass_for_the_end():
    """The thumbnail inside Exif has an end marker of its own."""
    data, block = encoded(".jpg", picture()), b"Exif\0\0" + exif(1) + encoded(".jpg", picture(8, 8))
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert decode(data, "part").shape == (24, 36, 3)
    with pytest.raises(ImageError, match="truncated"):
        decode(data[:-30], "part")


@given(at=st.integers(0, 10**6), value=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_altered_png_is_refused(at, value):
    data = bytearray(encoded(".png", picture()))
    data[at % len(data)] ^= value
    with pytest.raises(ImageError):
        decode(bytes(data), "part")


def test_damaged_png_names_the_chunk():
    data = bytearray(encoded(".png", picture()))
    data[data.index(b"IDAT") + 30] ^= 1
    with pytest.raises(ImageError, match=r"part is damaged: its IDAT chunk fails its checksum\. Copy or record it"):
        decode(bytes(data), "part")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_opencv_does(orientation):
    image = picture()
    turned = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image, -1),
        7: np.rot90(image, 2).transpose(1, 0, 2),
        8: np.rot90(image, 1),
    }[orientation]
    data = rotated_jpeg(image, orientation)
    found = decode(data, "part")
    assert found.shape == turned.shape
    assert np.abs(found.astype(int) - turned).mean() < 4
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(found, by_opencv[..., ::-1])
    facts = inspect_image(data, "part")
    assert (facts.orientation, facts.height, facts.width, facts.problem) == (orientation, *turned.shape[:2], None)


def test_orientation_of_png_and_tiff_is_applied():
    image = picture()
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    for data in (
        png(36, 24, rows=rows, extra=chunk(b"eXIf", exif(6))),
        tiff(
            *((256, 3, 1, 36), (257, 3, 1, 24), (258, 3, 1, 8), (262, 3, 1, 2), (273, 4, 1, 134), (274, 3, 1, 6)),
            *((277, 3, 1, 3), (278, 3, 1, 24), (279, 4, 1, 36 * 24 * 3), (284, 3, 1, 1)),
            pixels=image.tobytes(),
        ),
    ):
        np.testing.assert_array_equal(decode(data, "part"), np.rot90(image, -1))


def test_opaque_alpha_is_dropped_and_transparency_refused():
    image = picture()
    opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    for suffix in (".png", ".tiff"):
        data = encoded(suffix, opaque)
        assert inspect_image(data, "part").alpha
        np.testing.assert_array_equal(decode(data, "part"), image)
    opaque[3, 4, 3] = 254
    with pytest.raises(ImageError, match=r"part has transparent pixels\. Flatten it"):
        decode(encoded(".png", opaque), "part")
    palette = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\xff\x00")
    with pytest.raises(ImageError, match="transparent pixels"):
        decode(png(2, 1, rows=b"\0\0\1", color=3, extra=palette), "part")


def refused() -> dict[str, tuple[bytes, str]]:
    """name -> (file, what the refusal says)."""
    image, deep = picture(), (picture().astype(np.uint16) * 257)
    row = (b"\0" + bytes(3 * 36)) * 24
    sof4 = bytearray(encoded(".jpg", image))
    at = sof4.index(b"\xff\xc0")
    sof4[at + 9] = 4  # four channels; the rest need not fit, the header is enough
    sof12 = bytearray(encoded(".jpg", image))
    sof12[at + 4] = 12
    sof_bomb = bytearray(encoded(".jpg", image))
    sof_bomb[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    page = ((256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 86), (279, 4, 1, 16))
    gif = b"GIF89a" + struct.pack("<HH", 4, 4) + bytes(30)
    return {
        "empty.png": (b"", "empty.png is empty (0 bytes). Copy it again, or delete it."),
        "notes.png": (b"These are no pixels.", "notes.png is not an image that can be read here. Use PNG, JPEG"),
        "deep.png": (encoded(".png", deep), "deep.png has 16 bits per channel, not 8. Convert it to 8 bits"),
        "deep.tif": (encoded(".tiff", deep), "deep.tif has 16 bits per channel"),
        "float.tif": (encoded(".tiff", image.astype(np.float32)), "float.tif has 32 bits per channel"),
        "medical.jpg": (bytes(sof12), "medical.jpg has 12 bits per channel"),
        "print.jpg": (bytes(sof4), "print.jpg is in CMYK (print) colours. Save it as RGB."),
        "bomb.png": (png(60000, 60000, rows=row), "bomb.png claims 60000 x 60000 pixels, more than 100 million."),
        "bomb.jpg": (bytes(sof_bomb), "bomb.jpg claims 65000 x 65000 pixels"),
        "short.png": (png(36, 25, rows=row), "short.png can't be decoded, although its PNG header reads well."),
        "moving.png": (
            png(36, 24, rows=row, extra=chunk(b"acTL", struct.pack(">II", 3, 0))),
            "moving.png holds 3 frames or pages, not 1.",
        ),
        "moving.gif": (gif, "moving.gif is in the format GIF, which is not read here. Save it as PNG."),
        "pages.tif": (tiff(*page, following=8, pixels=bytes(16)), "pages.tif holds 100 frames or pages"),
        "print.tif": (tiff(*page[:3], (262, 3, 1, 5), *page[4:], pixels=bytes(16)), "print.tif is in CMYK"),
        "fax.tif": (
            tiff(*page[:3], (259, 3, 1, 4), *page[3:], pixels=bytes(30)),
            "fax.tif is in the format TIFF WITH COMPRESSION 4, which is not read here. Save it as PNG.",
        ),
        "few_rows.tif": (tiff(*page[:5], (279, 4, 1, 15), pixels=bytes(16)), "few_rows.tif is truncated"),
        "no_pixels.tif": (tiff(*page[:4]), "no_pixels.tif is truncated"),
        "zero.bmp": (b"BM" + struct.pack("<IIIIiiHHI", 54, 0, 54, 40, 0, 5, 1, 24, 0) + bytes(20), "of 0 x 5 pixels"),
        "packed.bmp": (
            b"BM" + struct.pack("<IIIIiiHHI", 54, 0, 54, 40, 5, 5, 1, 8, 1) + bytes(20),
            "packed.bmp is in the format OLD, 16-BIT OR COMPRESSED BMP",
        ),
        "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(20), "phone.heic is in the format HEIC"),
    }


@pytest.mark.parametrize("name", refused())
def test_refusal_says_which_file_why_and_what_to_do(name):
    data, sentence = refused()[name]
    with pytest.raises(ImageError) as refusal:
        decode(data, name)
    assert sentence in str(refusal.value)
    assert str(refusal.value).startswith(name)
    assert str(refusal.value).endswith(".")


def test_bomb_is_refused_without_decoding(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(ImageError, match="It was not decoded"):
        decode(png(side, side, rows=b""), "bomb")


MAGICS = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"RIFF____WEBP", b"GIF89a"]


@given(magic=st.sampled_from(MAGICS), body=st.binary(max_size=300))
def test_headers_of_noise_never_raise(magic, body):
    assert inspect_image(magic + body, "noise").problem or decode(magic + body, "noise").size


@given(kind=st.sampled_from(WRITTEN), at=st.integers(0, 300), noise=st.binary(min_size=1, max_size=8))
@settings(deadline=None)
def test_damaged_headers_give_an_image_or_a_sentence(kind, at, noise):
    data = bytearray(encoded(kind[0], picture(), *kind[1]))
    data[at : at + len(noise)] = noise
    try:
        assert decode(bytes(data), "part").dtype == np.uint8
    except ImageError as error:
        assert str(error).startswith("part ")


def test_tiff_whose_directories_point_at_each_other_ends():
    many = tiff(*[(273, 4, 10**6, 8)] * 60_000, following=8, pixels=bytes(4 * 10**6))
    assert inspect_image(many, "loop.tif").problem


def test_read_image_names_the_path(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png is missing or no plain file"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=r"folder\.png is missing or no plain file"):
        read_image(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")  # reading it would block for ever
    with pytest.raises(ImageError, match=r"pipe\.png is missing or no plain file"):
        read_image(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**30)  # a sparse file takes no room
    with pytest.raises(ImageError, match=r"huge\.png has 1073741824 bytes, more than"):
        read_image(tmp_path / "huge.png")


def test_broken_files_print_nothing_of_opencv(capfd):
    data = bytearray(encoded(".tiff", picture(600, 800), cv2.IMWRITE_TIFF_COMPRESSION, 5))
    data[5000:8000] = bytes(3000)  # OpenCV says on stderr that it can't unpack this, and goes on
    decode(bytes(data), "part")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_prepare_area_is_the_mean_of_the_covered_pixels():
    image = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    means = image.reshape(6, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(prepare(image, SIZED) - means).max() <= 0.5 + 1e-6


def test_prepare_linear_takes_the_middle_and_enlarging_is_linear_either_way():
    image = picture(12, 16)
    linear = prepare(image, Preprocessing(width=8, height=6, resize="linear"))
    np.testing.assert_array_equal(linear, cv2.resize(image, (8, 6), interpolation=cv2.INTER_LINEAR))
    noise = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    larger = [prepare(noise, Preprocessing(width=33, height=9, resize=resize)) for resize in ("area", "linear")]
    np.testing.assert_array_equal(*larger)
    assert larger[0].shape == (9, 33, 3)


def test_prepare_crops_before_resizing():
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:11, 7:15] = 200
    prepared = prepare(image, Preprocessing(width=4, height=3, crop=(7, 5, 8, 6)))
    assert prepared.shape == (3, 4, 3)
    assert (prepared == 200).all()
    cropped = prepare(image, Preprocessing(width=8, height=6, crop=(7, 5, 8, 6)))
    assert cropped.flags.c_contiguous
    assert (cropped == 200).all()


def test_prepare_at_model_size_copies_nothing():
    image = picture(6, 8)
    assert prepare(image, SIZED) is image


def test_crop_beyond_the_frame_is_refused():
    with pytest.raises(ImageError, match=r"\[7, 5, 30, 6\] .* beyond the frame of 36 x 24 pixels. Check the camera's"):
        prepare(picture(), Preprocessing(width=8, height=6, crop=(7, 5, 30, 6)))


@pytest.mark.parametrize("crop", [(-1, 0, 4, 4), (0, 0, 0, 4), (0, 0, 4, -4)])
def test_crop_must_be_a_rectangle(crop):
    with pytest.raises(ValidationError, match="it must be"):
        Preprocessing(width=8, height=6, crop=crop)


def test_mask_is_read_and_prepared_in_step_with_its_image(tmp_path: Path):
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 8:20] = 255
    mask[20, 20] = 127
    (tmp_path / "mask.png").write_bytes(encoded(".png", mask))
    read = read_mask(tmp_path / "mask.png")
    assert read.dtype == bool
    np.testing.assert_array_equal(read, mask == 255)
    halved = prepare_mask(read, Preprocessing(width=8, height=6, crop=(8, 4, 16, 12)))
    assert halved.dtype == bool
    assert halved[:4, :6].all()
    assert halved.sum() == 24
    dots = np.zeros((9, 12), bool)
    dots[1::3, 1::3] = True  # the middles of 3 x 3 blocks
    assert prepare_mask(dots, Preprocessing(width=4, height=3)).all()


def test_mask_of_ones_is_refused_rather_than_read_as_empty(tmp_path):
    (tmp_path / "mask.png").write_bytes(encoded(".png", np.eye(8, dtype=np.uint8)))
    with pytest.raises(ImageError, match=r"mask\.png is no mask: its brightest value is 1\. Save defects as 255"):
        read_mask(tmp_path / "mask.png")
