"""The verbs that write images: normal patches and squares cut, benchmarks unpacked, the demonstration line drawn."""

from pathlib import Path
from typing import Annotated

import typer

from train.verbs.terminal import said_plainly, say


def crop_normal(
    images: Annotated[Path, typer.Argument(help="Folder of full-size images.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The folder for the patches.", show_default=False)],
    count: Annotated[int, typer.Option("--count", help="Patches in all, as many of each image.", show_default=False)],
    size: Annotated[int, typer.Option("--size", help="Side of a patch in pixels.")] = 128,
    boxes: Annotated[
        Path | None,
        typer.Option("--boxes", help="Of the defects, to be avoided: a folder of VOC .xml files, or a .csv table."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Other places.")] = 0,
) -> None:
    """Crop normal patches from full-size images, away from the boxes of their defects."""
    with said_plainly("Stopped. What is written is whole; the same command goes on."):
        from train.data.normal_patches import crop_normal as crop
        from train.progress import Work

        with Work("cropping", count) as work:
            written = crop(images, out, size=size, count=count, boxes=boxes, seed=seed, progress=work.reached)
        say(
            f"Cropped: {written} patches in {out}" + (f"; no more than that fit, of {count}" if written < count else "")
        )


def cut_squares(
    data: Annotated[Path, typer.Argument(help="Tall images, good and defective: KolektorSDD2.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
    defects_per_type: Annotated[
        int | None,
        typer.Option("--defects-per-type", metavar="N", help="Defective pictures to train on; all by default."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Other ones of them.")] = 0,
) -> None:
    """Cut tall images into three squares each (top, second, bottom), for what takes squares."""
    with said_plainly("Stopped. What is written is whole; the same command goes on."):
        from train.data.defects import open_defects
        from train.data.squares import cut_squares as cut
        from train.progress import Work

        defects = open_defects(data, defects_per_type=defects_per_type, seed=seed)
        with Work("cutting", len(defects.samples)) as work:
            counts = cut(defects, out, progress=work.reached)
        for skipped in defects.skipped:
            say(f"warning: {skipped.message}")
        say(f"Cut: {', '.join(f'{count} of {name}' for name, count in counts.items())} in {out}.")
        say(f"Next: python -m train fit-generator adabldm --data {out} --out runs/{out.name}")


def unpack(
    benchmark: Annotated[str, typer.Argument(help="cifar10 or mnist", show_default=False)],
    folder: Annotated[
        Path,
        typer.Argument(help="CIFAR-10: its batches, binary or Python version. MNIST: IDX files.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of ten categories to write.", show_default=False)],
) -> None:
    """Write CIFAR-10 or MNIST as images, in ten categories: one class good, the nine others anomalies."""
    with said_plainly("Stopped. The same command goes on, and keeps what is written."):
        from train.config import ConfigError
        from train.data.cifar10 import unpack_cifar10
        from train.data.mnist import unpack_mnist
        from train.progress import Work

        if benchmark not in {"cifar10", "mnist"}:
            raise ConfigError(f"{benchmark} needs no unpacking, or isn't known. There are cifar10 and mnist.")
        with Work("unpacking", 1) as work:
            unpacked = unpack_cifar10 if benchmark == "cifar10" else unpack_mnist
            notes = unpacked(folder, out, progress=work.reached)
        for note in notes:
            say(note)
        system = "aesc" if benchmark == "cifar10" else "anogan --config digits"
        say(f"Unpacked: {out}. Next: python -m train table {system} --data {out} --out runs/{out.name}")


def draw(
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Other parts of the same product.")] = 0,
    size: Annotated[int, typer.Option(help="Side of an image in pixels.")] = 256,
    count: Annotated[int, typer.Option(help="Good parts to train on.")] = 60,
    test_good: Annotated[int, typer.Option(help="Good parts to test on.")] = 20,
    defects_per_type: Annotated[int, typer.Option(help="Defective parts of each type.")] = 8,
) -> None:
    """Draw the demonstration line: images of good and defective parts, with masks."""
    with said_plainly():
        from train.data.draw import draw_product_line
        from train.progress import Work

        with Work("drawing", 1) as work:
            draw_product_line(
                out,
                seed=seed,
                size=size,
                train=count,
                test_good=test_good,
                defects_per_type=defects_per_type,
                progress=work.reached,
            )
        say(f"Drawn: {out}. Next: python -m train fit aesc --data {out} --out runs/{out.name}")
