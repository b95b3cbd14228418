"""The words of `synthesize`, the same for `python -m train` and `python -m export`."""

from pathlib import Path
from typing import Annotated

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
Engine = Annotated[str, typer.Option("--engine", help="jax, onnxruntime, openvino or tensorrt.")]
