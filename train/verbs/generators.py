"""The verbs of generators: trained, asked for defects, compared with real ones."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from train.synthesis.verb import synthesize_verb
from train.synthesis.wishes import Wishes
from train.verbs.terminal import AsJson, Data, Settings, print_json, said_plainly, say, stopped_training


def fit_generator(
    generator: Annotated[str, typer.Argument(help="defect_gan or adabldm", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", show_default=False)],
    config: Annotated[
        str | None, typer.Option("--config", help="NAME of configs/GENERATOR/ or a file; cpu on a CPU, paper on a GPU.")
    ] = None,
    settings: Settings = [],  # noqa: B006  typer reads it, nobody writes it
    defects_per_type: Annotated[
        int | None,
        typer.Option(
            "--defects-per-type",
            help="Train on so many of each type, where the data keeps its defects for the test; half by default.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which of them.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run was.")] = False,
    product: Annotated[str | None, typer.Option("--product", help="Its name; the data folder's by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a generator of defects on normal and defective images."""
    with said_plainly(stopped_training(out)):
        import jax

        from train.commands import check_defect_data, choose_config, choose_generator, resolve
        from train.config import config_digest
        from train.data.defects import open_defects
        from train.generators.fit import fit_generator as fit
        from train.generators.fit import settled

        system = choose_generator(generator)
        path = choose_config(system, config, out if resume else None)
        product = product or data.resolve().stem
        resolved = resolve(system, path, settings)
        defects = open_defects(data, defects_per_type=defects_per_type, seed=seed)
        resolved = settled(system, resolved, defects, product)
        say(
            f"{generator} with {path} (digest {config_digest(resolved)}) on {jax.default_backend()}, "
            f"{len(defects.normal)} normal and {len(defects.defective)} defective images"
        )
        check_defect_data(defects, say)
        fit(system, resolved, defects, out, product=product, resume=resume)
        if as_json:
            print_json({"run": str(out), "pictures": str(out / "pictures")})
        else:
            say(f"Trained: {out}. Look at {out / 'pictures'} and {out / 'report.html'} first.")
            say(f"Next: python -m train synthesize {out} --data {data} --out defects --count 100")


@contextmanager
def _open_painter(run: Path, engine: str, wishes: Wishes) -> Iterator[Any]:
    """A Painter. Engines are the export's: the same words go there."""
    if engine != "jax":
        os.execv(sys.executable, [sys.executable, "-m", "export", *sys.argv[1:]])
    from train.generators.run import open_generator
    from train.synthesis.jax_painter import painter_of

    yield painter_of(open_generator(run), wishes)


synthesize = synthesize_verb(
    """Draw defects on normal images, or take them away: images, masks, and where each comes from (docs/synthesis.md).

    Started again, it goes on. The same words give the same files, byte for byte, whatever the parts.
    """,
    _open_painter,
    said_plainly,
    default_engine="jax",
)


def compare(
    real: Annotated[Path, typer.Argument(help="Folder of real images.", show_default=False)],
    generated: Annotated[Path, typer.Argument(help="Folder of generated ones.", show_default=False)],
    features: Annotated[
        str,
        typer.Option(
            "--features",
            metavar="FILE|NAME",
            help="Weights of the network that compares, or its name. FID takes pt_inception-2015-12-05-6726825d.pth.",
            show_default=False,
        ),
    ],
    size: Annotated[
        int | None, typer.Option(help="Side to which both are scaled first; the generated images' own by default.")
    ] = None,
    splits: Annotated[int, typer.Option(help="Random halves of the real images, for the floor.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the halves and subsets.")] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="RUN", help="Write the figures into this generator's report too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How near generated images are to real ones, beside how near real ones are to each other; per class, diversity.

    A class is a folder's name. Masks below ground_truth/ are left out.
    """
    with said_plainly():
        from train.generators.fit import write_report
        from train.generators.run import open_generator
        from train.quality.command import compare_folders
        from train.quality.wording import quality_section, sentences

        generator = open_generator(report) if report else None  # says what is missing before the work is done
        comparison = compare_folders(real, generated, features, size=size, splits=splits, seed=seed)
        if generator is not None:
            write_report(generator, (quality_section(comparison),))
        if as_json:
            print_json(comparison.as_json())
        else:
            for line in sentences(comparison):
                typer.echo(line)
