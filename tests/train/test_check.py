"""Each thing that the check of the data must see, drawn or encoded here, with the sentence that it gives."""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from train.data.check import Finding, as_lines, check
from train.data.draw import draw_product_line
from train.data.folder import open_dataset


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "line"
    draw_product_line(folder, size=48, train=52, test_good=10, defects_per_type=4)
    return folder


@pytest.fixture
def line(drawn, tmp_path) -> Path:
    return shutil.copytree(drawn, tmp_path / "line")


def find(folder: Path, kind: str) -> list[Finding]:
    return [finding for finding in check(open_dataset(folder)) if finding.kind == kind]


def errors(folder: Path) -> list[str]:
    """Messages without the folder's own path, which must each be one line."""
    findings = check(open_dataset(folder))
    assert all(finding.message.isprintable() for finding in findings)
    return [f.message.replace(f"{folder}/", "") for f in findings if f.severity == "error"]


def warnings(folder: Path) -> list[str]:
    return [f.message.replace(f"{folder}/", "") for f in check(open_dataset(folder)) if f.severity == "warning"]


def pixels(path: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)


def save(path: Path, image: np.ndarray, suffix: str = ".png") -> None:
    path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())


def save_pillow(path: Path, image: Image.Image, **options) -> None:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    path.write_bytes(buffer.getvalue())


def test_a_sound_set_gives_no_finding(line):
    assert check(open_dataset(line)) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def deep(path: Path) -> None:
    save(path, pixels(path).astype(np.uint16) * 257)


def cmyk(path: Path) -> None:
    save_pillow(path, Image.new("CMYK", (48, 48), (10, 200, 30, 5)), format="JPEG")


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (48, 48), (i * 20, 90, 10)) for i in range(3)]
    save_pillow(path, frames[0], format="PNG", save_all=True, append_images=frames[1:])


def gif(path: Path) -> None:
    save_pillow(path, Image.new("RGB", (48, 48), (3, 90, 10)), format="GIF")


def pages(path: Path) -> None:
    frames = [Image.new("RGB", (48, 48), (i * 20, 90, 10)) for i in range(3)]
    save_pillow(path, frames[0], format="TIFF", save_all=True, append_images=frames[1:])


def bomb(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (lambda path: path.write_bytes(b""), "unreadable", "003.png is empty (0 bytes). Copy it again, or delete it."),
        (
            lambda path: path.write_bytes(b"not an image"),
            "unreadable",
            "003.png is not an image that can be read here.",
        ),
        (cut, "truncated", "003.png is truncated: the PNG data ends too early"),
        (deep, "16-bit", "003.png has 16 bits per channel, not 8. Convert it to 8 bits"),
        (cmyk, "cmyk", "003.png is in CMYK (print) colours. Save it as RGB."),
        (animated, "animated", "003.png holds 3 frames or pages, not 1."),
        (pages, "animated", "003.png holds 3 frames or pages, not 1."),
        (gif, "unreadable", "003.png is "),
        (bomb, "unreadable", "003.png claims 60000 x 60000 pixels, more than 100 million."),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "unreadable", "003.png is missing"),
    ],
)
@pytest.mark.parametrize("where", ["train/good", "test/stain"])
def test_a_file_that_must_not_be_used(line, where, spoil: Callable[[Path], object], kind, says):
    spoil(line / where / "003.png")
    (message,) = errors(line)
    assert message.startswith(f"{where}/{says}")
    (finding,) = find(line, kind)
    assert finding.path == line / where / "003.png"
    assert str(finding) == f"error: {finding.message}"


def test_a_file_that_vanishes_while_the_check_runs(line):
    dataset = open_dataset(line)
    (line / "train/good/007.png").unlink()
    (finding,) = check(dataset)
    assert "007.png is missing" in finding.message and finding.severity == "error"


@pytest.mark.parametrize("place", ["good/001.png", "test/stain/001.png"])
def test_a_pipe_is_named_and_not_waited_for(line, place):
    if place.startswith("good"):
        (line / "train/good").rename(line / "good")
        for other in ("train", "test", "ground_truth"):
            shutil.rmtree(line / other)
        (line / "bad").mkdir()
    (line / place).unlink()
    os.mkfifo(line / place)
    (message,) = errors(line)
    assert message == f"{place} is missing or no plain file. Check that it still exists."


def test_every_broken_file_has_its_line_and_the_terminal_gets_ten(line):
    for i in range(14):
        cut(line / f"train/good/{i:03d}.png")
    findings = check(open_dataset(line))
    lines = as_lines(findings)
    assert [f.path.name for f in findings if f.kind == "truncated"] == [f"{i:03d}.png" for i in range(14)]
    assert len(lines) == 12 and lines[10] == "error: 4 more like it (truncated)."
    assert lines[11].startswith("warning: ")  # 38 good images are left, which are few


def test_a_picture_stored_turned(line):
    image = Image.open(line / "train/good/000.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6
    save_pillow(line / "train/good/000.png", image, format="JPEG", exif=exif)
    (message,) = warnings(line)
    assert message == (
        "train/good/000.png is stored turned or mirrored (Exif orientation). It is set upright on reading, here and on "
        "the line: make sure that the camera always writes this tag."
    )
    for i in range(1, 8):
        shutil.copy(line / "train/good/000.png", line / f"train/good/{i:03d}.png")
    assert any(m.startswith("8 images are stored turned") and "000.png for one" in m for m in warnings(line))


def test_a_turned_picture_is_compared_with_its_mask_when_upright(line):
    exif = Image.Exif()
    exif[274] = 6
    save_pillow(line / "test/stain/000.png", Image.new("RGB", (48, 30), (9, 80, 7)), format="JPEG", exif=exif)
    (message,) = errors(line)
    assert "000_mask.png is 48 x 48 pixels, but its image test/stain/000.png is 30 x 48 when upright" in message
    mask = np.zeros((48, 30), np.uint8)
    mask[3:9, 4:8] = 255
    save(line / "ground_truth/stain/000_mask.png", mask)
    assert errors(line) == []


def test_masks(line):
    truth = line / "ground_truth/scratch"
    save(truth / "000_mask.png", np.full((40, 48), 255, np.uint8))
    cut(truth / "001_mask.png")
    save(truth / "002_mask.png", np.ones((48, 48), np.uint8))  # 0 and 1, as some tools write it
    save(line / "ground_truth/stain/000_mask.png", np.zeros((48, 48), np.uint8))
    (line / "ground_truth/crack/001_mask.png").unlink()
    said = errors(line)
    assert said[0] == (
        "ground_truth/scratch/000_mask.png is 48 x 40 pixels, but its image test/scratch/000.png is 48 x 48. Draw it "
        "at the image's size."
    )
    assert said[1].startswith("ground_truth/scratch/001_mask.png is truncated")
    assert said[2].startswith("ground_truth/scratch/002_mask.png is no mask: its brightest value is 1.")
    assert len(said) == 3
    assert warnings(line) == [
        "ground_truth/stain/000_mask.png marks no pixel although its image is labelled defective. Mark the defect, or "
        "label the image good.",
        "test/crack/001.png is defective and has no mask. Pixel metrics leave such an image out: draw its mask.",
    ]


def test_no_masks_at_all_is_one_line(line):
    shutil.rmtree(line / "ground_truth")
    (message,) = warnings(line)
    assert message.startswith(
        "None of the 16 defective images has a mask (the first is test/crack/000.png): pixel AUROC"
    )


def test_one_mask_for_two_images(line):
    save(line / "test/stain/000.bmp", pixels(line / "train/good/000.png")[::-1], ".bmp")
    (message,) = errors(line)
    assert message == (
        "ground_truth/stain/000_mask.png is the mask of 2 images (test/stain/000.bmp, test/stain/000.png). Give each "
        "image a name, or a mask, of its own."
    )


def test_a_good_image_whose_mask_marks_a_defect(line):
    (line / "ground_truth/good").mkdir()
    save(line / "ground_truth/good/000_mask.png", np.zeros((48, 48), np.uint8))
    assert errors(line) == []
    mask = np.zeros((48, 48), np.uint8)
    mask[0, :5] = 255
    save(line / "ground_truth/good/000_mask.png", mask)
    (message,) = errors(line)
    assert message.startswith("test/good/000.png is labelled good, but its mask ground_truth/good/000_mask.png marks 5")


@pytest.mark.parametrize("suffix", [".png", ".bmp"])  # byte for byte, and the same pixels in another format
def test_the_same_picture_in_train_and_test(line, suffix):
    save(line / f"test/good/copy{suffix}", pixels(line / "train/good/017.png"), suffix)
    (message,) = errors(line)
    assert message.replace(f"{line}/", "") == (
        f"test/good/copy{suffix} is a test image and the same picture as the training image train/good/017.png. Delete "
        "one of them: what was learned can't be tested."
    )


def test_the_same_picture_good_and_defective(line):
    shutil.copy(line / "train/good/017.png", line / "test/stain/000.png")
    shutil.copy(line / "test/good/003.png", line / "test/crack/000.png")
    said = errors(line)
    assert said == [
        "test/good/003.png is the same picture as test/crack/000.png, labelled crack (test) there and good (test) "
        "here. Delete the one whose label is wrong.",
        "test/stain/000.png is the same picture as train/good/017.png, labelled good (train) there and stain (test) "
        "here. Delete the one whose label is wrong.",
    ]


def test_copies_within_train(line):
    shutil.copy(line / "train/good/000.png", line / "train/good/copy.png")
    assert warnings(line) == [
        "train/good/copy.png is the same picture as train/good/000.png. Delete copies: they count twice and make the "
        "threshold look better than it is."
    ]
    for i in range(4):
        shutil.copy(line / "train/good/000.png", line / f"train/good/copy{i}.png")
    (message,) = warnings(line)
    assert message.startswith("5 images are copies of others, train/good/copy.png of train/good/000.png for one.")


def test_too_few_images(line):
    for i in range(8, 52):
        (line / f"train/good/{i:03d}.png").unlink()
    assert errors(line) == []
    (few,) = find(line, "few")
    assert "has only 8 different good images to train on. About 2 of them are held out" in few.message
    assert "1 false reject in 3" in few.message
    shutil.copy(line / "train/good/000.png", line / "train/good/007.png")  # a copy is not an eighth image
    (message,) = errors(line)
    assert "has 7 different good images to train on that can be read; at least 8 are needed" in message
    (line / "train/good/003.png").write_bytes(b"")
    assert any("has 6 different good images" in message for message in errors(line))


def test_a_test_set_without_one_side(line):
    shutil.rmtree(line / "test/good")
    for label in ("stain", "crack", "scratch"):
        shutil.rmtree(line / "test" / label)
    said = [message.removeprefix(f"{line} ") for message in warnings(line) if "test image" in message]
    assert said == [
        "has no good test images: neither AUROC nor the false-reject rate can be measured on test images. Add some.",
        "has only 4 defective test images: AUROC and the escape rate are rough. Add some.",
    ]
    assert find(line / "train/good", "few-test") == []  # good images only: nobody expects a test set


def test_a_blank_and_a_tiny_picture(line):
    save(line / "train/good/000.png", np.full((48, 48, 3), 2, np.uint8))
    save(line / "train/good/001.png", cv2.resize(pixels(line / "train/good/001.png"), (20, 20)))
    assert (
        "000.png shows one single colour. The lens was covered or the light was off" in find(line, "blank")[0].message
    )
    assert "001.png is smaller than 32 pixels." in find(line, "tiny")[0].message


def test_pictures_of_several_sizes(line):
    save(line / "train/good/003.png", cv2.resize(pixels(line / "train/good/003.png"), (96, 96)))
    (message,) = warnings(line)
    assert message == (
        "77 images are 48 x 48 and 1 of another size; train/good/003.png is 96 x 96. All are resized to one size, so "
        "fine texture is sharper in some than in others: crop them to one shape, the one that the line's camera gives."
    )
    save(line / "train/good/004.png", cv2.resize(pixels(line / "train/good/004.png"), (60, 48)))
    (message,) = warnings(line)
    assert (
        "76 images are 48 x 48 and 2 of another size; " in message
        and "train/good/004.png is 60 x 48. All are resized to one size without keeping" in (message)
    )


def test_grey_and_colour_mixed(line):
    for i in range(2):
        save(
            line / f"train/good/{i:03d}.png", cv2.cvtColor(pixels(line / f"train/good/{i:03d}.png"), cv2.COLOR_BGR2GRAY)
        )
    (finding,) = find(line, "grey-and-colour")
    assert "2 images are grey and 76 in colour; " in finding.message
    assert finding.message.endswith("train/good/000.png is grey. Give only what the line's camera gives.")


def test_a_set_that_is_grey_throughout_is_fine(line):
    for path in sorted((line / "train").rglob("*.png")) + sorted((line / "test").rglob("*.png")):
        save(path, cv2.cvtColor(pixels(path), cv2.COLOR_BGR2GRAY))
    assert check(open_dataset(line)) == []


def test_strangers_among_the_good_parts(line):
    rng = np.random.default_rng(0)
    for i in range(2):  # two of a kind, which must not vouch for each other
        wrong = np.full((48, 48, 3), (200, 220, 210), np.uint8)
        save(line / f"train/good/{i:03d}.png", wrong + rng.integers(0, 8, wrong.shape, np.uint8))
    assert [f.path.name for f in find(line, "outlier")] == ["000.png", "001.png"]
    assert "000.png looks unlike all other good images. Look at it: a wrong part, a hand" in warnings(line)[0]


def test_identical_good_images_do_not_divide_by_zero(tmp_path):
    image = np.full((40, 40, 3), 90, np.uint8)
    image[5:9] = 20
    for i in range(12):
        save(tmp_path / f"{i}.png", image)
    kinds = {finding.kind for finding in check(open_dataset(tmp_path))}
    assert kinds == {"duplicate", "too-few"}


def test_what_the_layout_skipped_is_passed_on(line):
    save(line / "train/stray.png", pixels(line / "train/good/000.png"))
    (message,) = warnings(line)
    assert message == "train/stray.png is not used: it has no label there. Put it in train/good."


def test_progress_counts_every_image_and_an_interrupt_ends_the_check(line):
    dataset, seen = open_dataset(line), []
    check(dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 78) for i in range(1, 79)]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(dataset, progress=interrupt)


def test_a_name_that_no_terminal_can_print(tmp_path):
    for i in range(8):
        save(tmp_path / f"{i}.png", np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8))
    with open(os.fsencode(tmp_path) + b"/new\nline \xff\x1b[31m.png", "wb") as file:  # noqa: PTH123 (bytes)
        file.write(b"no image")
    (message,) = errors(tmp_path)
    message.encode()
    assert "new\\nline" in message and "is not an image" in message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(data=st.data())
def test_no_bytes_make_the_check_fail(tmp_path, data):
    """Random bytes behind a true beginning, and true files with a few bytes changed, as images and as masks."""
    folder = tmp_path / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("train/good/0.png", "train/good/1.png", "test/dent/0.png", "ground_truth/dent/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        suffix = data.draw(st.sampled_from([".png", ".jpg", ".bmp", ".tiff", ".webp"]))
        image = np.random.default_rng(len(name)).integers(0, 256, (9, 7, 3), np.uint8)
        whole = bytearray(cv2.imencode(suffix, image)[1].tobytes())
        if data.draw(st.booleans()):
            keep = data.draw(st.integers(0, 16))
            whole = whole[:keep] + bytearray(data.draw(st.binary(max_size=64)))
        else:
            for _ in range(data.draw(st.integers(0, 4))):
                whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        (folder / name).write_bytes(bytes(whole))
    findings = check(open_dataset(folder))
    assert findings and all(finding.message.isprintable() for finding in findings)  # too few, at least
