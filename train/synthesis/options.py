"""The words of `synthesize`, the same for `python -m train` and `python -m export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

Run = Annotated[Path, typer.Argument(help="The run folder of `train fit-generator`.", show_default=False)]
Backgrounds = Annotated[
    Path,
    typer.Option(
        "--data", help="Normal images, in any layout or flat (docs/synthesis.md); seen or unseen.", show_default=False
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The folder to write, or to go on with.", show_default=False)]
Count = Annotated[int | None, typer.Option("--count", help="Images in all. With --restore: all that there are.")]
Category = Annotated[
    list[str],
    typer.Option(
        "--category", metavar="C", help="What to draw; repeatable. By default all, in turn. crack+rust: both."
    ),
]
Where = Annotated[
    str, typer.Option("--region", help="anywhere, image, spot[:SHARE], box:x,y,w,h, polygon:x,y;x,y;x,y, mask:FILE")
]
Confine = Annotated[bool, typer.Option("--confine", help="Take back what was drawn outside the region.")]
Strength = Annotated[float, typer.Option("--strength", help="Of the mask, above 0 and at most 1.")]
Seed = Annotated[int, typer.Option("--seed", help="Other defects of the same kinds.")]
Restore = Annotated[bool, typer.Option("--restore", help="The other way: the data's defective images made normal.")]
Split = Annotated[str, typer.Option("--split", help="Which side of the data to start from: train, test or all.")]
Threshold = Annotated[float, typer.Option("--mask-threshold", help="Of the soft mask: above it a pixel is defective.")]
Shard = Annotated[str, typer.Option("--shard", metavar="I/N", help="Only this part of N; parts make up the whole.")]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="onnxruntime, openvino, tensorrt or tensorrt_rtx, of what draws in one pass; with `python -m train` jax.",
    ),
]

MANY_STEPS = "Of generators that draw in many steps (adabldm)"


def _of_many_steps(name: str, words: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=words, metavar=metavar, rich_help_panel=MANY_STEPS, show_default=False)


Prompt = Annotated[
    str | None,
    _of_many_steps("--prompt", "What is told of the defect; {object} and {defect} are filled in. As the run has it."),
]
Shape = Annotated[
    Path | None,
    _of_many_steps(
        "--shape",
        "Masks whose white shape a defect takes, turned and placed. By default those trained on.",
        "FILE|FOLDER",
    ),
]
Trimap = Annotated[
    Path | None,
    _of_many_steps(
        "--trimap",
        "Where it is, as it lies there: 255 defect, 127 the rest of the part (or found), 0 background.",
        "FILE|FOLDER",
    ),
]
Guidance = Annotated[
    float | None, _of_many_steps("--guidance", "How far the prompt leads; 9 is published, 1 is no guidance.")
]
Stages = Annotated[
    str | None,
    _of_many_steps(
        "--stages",
        "seed_countdown, official_code, seed_durations, or steps: free/latent edit/image edit.",
        "NAME|F/L/I",
    ),
]
Adaptation = Annotated[
    int | None, _of_many_steps("--adaptation", "Iterations by which the decoder is adapted to each image.")
]
Renoise = Annotated[
    str | None,
    _of_many_steps(
        "--renoise", "How noisy an edited image becomes again: as before the step, or as after it.", "current|prev"
    ),
]
Sheets = Annotated[
    bool,
    typer.Option("--sheets", help="Keep a picture of all stages beside each image.", rich_help_panel=MANY_STEPS),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch", help="Images drawn at once: 8; of adabldm 1 on a CPU. Less takes less memory.", show_default=False
    ),
]
