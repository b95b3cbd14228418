"""What the header of an image file says, read before a single pixel is decoded.

OpenCV decodes well but tells too little: it turns 16 bits into 8 and CMYK into some RGB, takes the first frame of an
animation, and a JPEG that was cut off decodes or not depending on how it is read. So the few facts that decide whether
a file may be decoded at all are read here, from its own bytes. `preprocess.py` is the public door to this module.

Sources: ITU-T T.81 annex B (JPEG), W3C PNG 3rd edition sections 5 and 11, TIFF 6.0 section 2, CIPA DC-008 (Exif
orientation), Google's WebP container specification, Microsoft's BITMAPINFOHEADER.
"""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Color = Literal["grey", "rgb", "palette", "cmyk", "other"]

MAX_PIXELS = 100_000_000  # a 100-megapixel frame takes 300 MB as RGB; line cameras end near 65

# Formats that decode() reads. The suffixes of others are listed too: a part whose file is a GIF must be refused by
# name, not skipped in silence.
READ_FORMATS = ("jpeg", "png", "bmp", "tiff", "webp")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp"}
    | {".gif", ".apng", ".avif", ".heic", ".jp2", ".pgm", ".ppm", ".pnm", ".exr", ".hdr"}
)


@dataclass(frozen=True)
class ImageFacts:
    """Header facts of one file; width and height are the upright image's, 0 where the header doesn't give them."""

    format: str | None = None  # "jpeg", "png", "bmp", "tiff", "webp"; another name where recognised but not read
    width: int = 0
    height: int = 0
    bit_depth: int = 8  # bits per channel, the largest where they differ
    color: Color = "rgb"
    alpha: bool = False
    orientation: int = 1  # Exif: 1 upright, 2..8 mirrored or rotated (decode() turns them upright)
    frames: int = 1
    truncated: bool = False
    damage: str | None = None  # what else is broken, e.g. "its IDAT chunk fails its checksum"
    problem: str | None = None  # the sentence with which decode() refuses the file; None: it is worth decoding


def inspect_image(data: bytes, name: str) -> ImageFacts:
    """Facts about an encoded image without decoding it; never raises, `problem` says what is wrong."""
    facts = ImageFacts()
    for magic, parse in _PARSERS:
        if re.match(magic, data, re.DOTALL):
            try:
                facts = parse(data)
            except (struct.error, IndexError):
                facts = ImageFacts(format=parse.__name__.removeprefix("_"), truncated=True)
            break
    if facts.orientation >= 5:  # 5..8 exchange rows and columns
        facts = replace(facts, width=facts.height, height=facts.width)
    return replace(facts, problem=_problem(facts, data, name))


def _problem(facts: ImageFacts, data: bytes, name: str) -> str | None:
    kind = (facts.format or "").upper()
    if not data:
        return f"{name} is empty (0 bytes). Copy it again, or delete it."
    if facts.format is None:
        return f"{name} is not an image that can be read here. Use PNG, JPEG, BMP, TIFF or WebP."
    if facts.format not in READ_FORMATS:
        return f"{name} is in the format {kind}, which is not read here. Save it as PNG."
    if facts.truncated:
        return f"{name} is truncated: the {kind} data ends too early ({len(data)} bytes). Copy or record it again."
    if facts.damage:
        return f"{name} is damaged: {facts.damage}. Copy or record it again."
    if not (facts.width and facts.height):
        return f"{name} is a {kind} file of {facts.width} x {facts.height} pixels. Record it again."
    if facts.width * facts.height > MAX_PIXELS:
        return (
            f"{name} claims {facts.width} x {facts.height} pixels, more than {MAX_PIXELS // 10**6} million. "
            "It was not decoded; scale it down or crop it."
        )
    if facts.frames != 1:
        return f"{name} holds {facts.frames} frames or pages, not 1. Save the one that counts as a PNG of its own."
    if facts.bit_depth > 8:
        return (
            f"{name} has {facts.bit_depth} bits per channel, not 8. Convert it to 8 bits with the brightness scaling "
            "that the line's camera will use."
        )
    if facts.color == "cmyk":
        return f"{name} is in CMYK (print) colours. Save it as RGB."
    return None


def _jpeg(data: bytes) -> ImageFacts:
    facts, at = ImageFacts(format="jpeg", truncated=True), 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return replace(facts, truncated=False, damage=f"byte {at} should begin a JPEG segment and does not")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF: the frame header
            depth, height, width, channels = struct.unpack_from(">BHHB", segment)
            color: Color = {1: "grey", 3: "rgb", 4: "cmyk"}.get(channels, "other")  # type: ignore[assignment]
            facts = replace(facts, width=width, height=height, bit_depth=depth, color=color)
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            facts = replace(facts, orientation=_orientation(segment[6:]))
        at += 2 + length
        if marker == 0xDA:  # SOS: entropy-coded data follows, up to the next marker that is no restart and no stuffing
            found = _JPEG_MARKER.search(data, at)
            if found is None:
                return facts
            at = found.start()
        if data[at : at + 2] == b"\xff\xd9":  # EOI; what a camera appends behind it is not ours
            return replace(facts, truncated=False)
    return facts


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)


def _png(data: bytes) -> ImageFacts:
    width, height, depth, color_type = struct.unpack_from(">IIBB", data, 16)
    color: Color = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}.get(color_type, "other")  # type: ignore[assignment]
    facts = ImageFacts("png", width, height, depth, color, alpha=color_type in (4, 6), truncated=True)
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return facts
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            name = kind.decode("ascii", "replace")
            return replace(facts, truncated=False, damage=f"its {name} chunk fails its checksum")
        body = data[at + 8 : end - 4] if kind in (b"acTL", b"eXIf") else b""
        if kind == b"acTL":
            facts = replace(facts, frames=struct.unpack_from(">I", body)[0])
        elif kind == b"eXIf":
            facts = replace(facts, orientation=_orientation(body))
        elif kind == b"tRNS":
            facts = replace(facts, alpha=True)
        elif kind == b"IEND":
            return replace(facts, truncated=False)
        at = end
    return facts


def _bmp(data: bytes) -> ImageFacts:
    pixels_at, header_size, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
    facts = ImageFacts("bmp", abs(width), abs(height), 8, "palette" if bits <= 8 else "rgb")
    if header_size < 40 or bits not in (1, 4, 8, 24, 32) or compression not in (0, 3):
        return replace(facts, format="old, 16-bit or compressed bmp")
    row_bytes = (abs(width) * bits + 31) // 32 * 4
    return replace(facts, truncated=pixels_at + row_bytes * abs(height) > len(data))


def _tiff(data: bytes) -> ImageFacts:
    if data[2:4] in (b"+\0", b"\0+"):
        return ImageFacts(format="bigtiff")
    following, tags = _tiff_directory(data, None)
    if not {256, 257} <= tags.keys():
        return ImageFacts("tiff", truncated=True)
    width, height, depth = tags[256][0], tags[257][0], max(tags.get(258, (1,)))
    photometric, samples, compression = (
        tags.get(tag, (default,))[0] for tag, default in ((262, 2), (277, 1), (259, 1))
    )
    names: dict[int, Color] = {0: "grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb"}
    frames = 1
    while following and frames < 100:  # a directory that points back at itself would go on for ever
        following = _next_directory(data, following)
        frames += 1
    starts, sizes = tags.get(273, tags.get(324, ())), tags.get(279, tags.get(325, ()))
    ends = [start + size for start, size in zip(starts, sizes, strict=False)]
    needed = (width * depth * samples + 7) // 8 * height if compression == 1 else 1
    return ImageFacts(
        "tiff" if compression in _TIFF_COMPRESSIONS else f"tiff with compression {compression}",
        width,
        height,
        depth,
        names.get(photometric, "other"),
        alpha=samples in (2, 4) and photometric != 5,
        orientation=_valid_orientation(tags),
        frames=frames,
        truncated=not ends or max(ends) > len(data) or sum(sizes) < needed,
    )


# None, LZW, deflate, PackBits, deflate's old number. OpenCV gives a black image for those that it doesn't know.
_TIFF_COMPRESSIONS = (1, 5, 8, 32773, 32946)


def _webp(data: bytes) -> ImageFacts:
    facts = ImageFacts("webp", truncated=8 + struct.unpack_from("<I", data, 4)[0] > len(data))
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = at + 8
        if kind == b"VP8X":
            flags = data[body]
            width, height = (1 + int.from_bytes(data[body + i : body + i + 3], "little") for i in (4, 7))
            facts = replace(facts, width=width, height=height, alpha=bool(flags & 0x10))
        elif kind == b"VP8 " and not facts.width:
            width, height = struct.unpack_from("<HH", data, body + 6)
            facts = replace(facts, width=width & 0x3FFF, height=height & 0x3FFF)
        elif kind == b"VP8L" and not facts.width:
            bits = struct.unpack_from("<I", data, body + 1)[0]
            facts = replace(
                facts, width=1 + (bits & 0x3FFF), height=1 + (bits >> 14 & 0x3FFF), alpha=bool(bits >> 28 & 1)
            )
        elif kind == b"ANMF":
            facts = replace(facts, frames=facts.frames + 1)
        elif kind == b"EXIF":
            facts = replace(facts, orientation=_orientation(data[body : body + length].removeprefix(b"Exif\0\0")))
        at = body + length + length % 2
    return replace(facts, frames=max(1, facts.frames - 1))


def _gif(data: bytes) -> ImageFacts:
    width, height = struct.unpack_from("<HH", data, 6)
    return ImageFacts("gif", width, height, color="palette")


def _named(name: str) -> Callable[[bytes], ImageFacts]:
    return lambda data: ImageFacts(format=name)


_PARSERS: tuple[tuple[bytes, Callable[[bytes], ImageFacts]], ...] = (
    (rb"\xff\xd8", _jpeg),
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"BM", _bmp),
    (rb"(II[*+]\0|MM\0[*+])", _tiff),
    (rb"RIFF....WEBP", _webp),
    (rb"GIF8[79]a", _gif),
    (rb"....ftypavi[fs]", _named("avif")),
    (rb"....ftyp(hei|mif)", _named("heic")),
    (rb"(\0\0\0\x0cjP  |\xff\x4f\xff\x51)", _named("jpeg 2000")),
    (rb"P[1-7][\s#]", _named("pnm")),
    (rb"\x76\x2f\x31\x01", _named("openexr")),
    (rb"#\?RADIANCE", _named("radiance hdr")),
)


# width, height, bits, compression, photometric, strip offsets, orientation, samples, strip sizes, tile offsets, sizes
_TIFF_TAGS = frozenset({256, 257, 258, 259, 262, 273, 274, 277, 279, 324, 325})


def _orientation(exif: bytes) -> int:
    """Exif orientation of a TIFF-shaped block; 1 where it has none or can't be read, as OpenCV takes it."""
    try:
        return _valid_orientation(_tiff_directory(exif, None)[1])
    except (struct.error, IndexError):
        return 1


def _valid_orientation(tags: dict[int, tuple[int, ...]]) -> int:
    value = tags.get(274, (1,))[0]
    return value if 1 <= value <= 8 else 1


def _tiff_directory(data: bytes, at: int | None) -> tuple[int, dict[int, tuple[int, ...]]]:
    """(Offset of the next directory, tags with whole-number values) of the directory at `at` (None: the first)."""
    order = "<" if data[:2] == b"II" else ">"
    if at is None:
        at = struct.unpack_from(order + "I", data, 4)[0]
    tags: dict[int, tuple[int, ...]] = {}
    (count,) = struct.unpack_from(order + "H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, n = struct.unpack_from(order + "HHI", data, entry)
        code, size = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
        if tag not in _TIFF_TAGS or tag in tags or not code or n == 0 or n * size > len(data):
            continue  # a tag once and the known ones only: thousands of large ones would take for ever
        values_at = entry + 8 if n * size <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
        tags[tag] = struct.unpack_from(f"{order}{n}{code}", data, values_at)
    return _next_directory(data, at), tags


def _next_directory(data: bytes, at: int) -> int:
    order = "<" if data[:2] == b"II" else ">"
    count = struct.unpack_from(order + "H", data, at)[0]
    return int(struct.unpack_from(order + "I", data, at + 2 + 12 * count)[0])
