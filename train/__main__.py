"""python -m train: fit a detector, evaluate a run; both for every category of a folder; data unpacked and drawn."""

import sys
from collections.abc import Callable

import typer

from train.verbs.detectors import evaluate, fit, table, threshold
from train.verbs.generators import compare, fit_generator, synthesize
from train.verbs.images import crop_normal, cut_squares, draw, unpack
from train.verbs.terminal import stop_on_signals

app = typer.Typer(
    help="Learn from good parts on the server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

VERBS: dict[Callable[..., None], str] = {  # in the order of --help, with an example each
    fit: "fit aesc --data bottle --out runs/bottle",
    evaluate: "evaluate runs/bottle --data bottle",
    table: "table aesc --data mvtec_ad --out runs/mvtec_ad --seeds 0,1,2",
    compare: "compare leather/test synthetic/test --features resnet18.safetensors",
    synthesize: "synthesize runs/tile_defects --data magnetic_tile --out drawn --count 200",
    crop_normal: "crop-normal bridge/images --out patches/train/good --count 5000",
    cut_squares: "cut-squares ksdd2 --out squares --defects-per-type 10",
    threshold: "threshold runs/bottle --defects synthetic/bottle",
    fit_generator: "fit-generator defect_gan --data magnetic_tile --out runs/tile_defects",
    unpack: "unpack cifar10 cifar-10-batches-bin --out cifar10",
    draw: "draw --out line",
}
for verb, example in VERBS.items():
    app.command(epilog=f"Example: python -m train {example}")(verb)


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(app(prog_name="python -m train"))
