"""The verb `synthesize`, the same for `python -m train` and `python -m export`; they differ in what draws."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import typer

from train.synthesis import options
from train.synthesis.wishes import Wishes
from train.verbs.terminal import AsJson, print_json, say


def synthesize_verb(
    description: str,
    open_painter: Callable[[Path, str, Wishes], AbstractContextManager[Any]],
    said_plainly: Callable[[str], AbstractContextManager[None]],
    *,
    default_engine: str | None = None,
) -> Callable[..., None]:
    """For `Typer.command`. `open_painter` is given the run folder, the engine's name and wishes, and yields a Painter.

    Without a default the engine has to be named.
    """

    def synthesize(
        run: options.Run,
        data: options.Backgrounds,
        out: options.Out,
        count: options.Count = None,
        category: options.Category = [],  # noqa: B006  typer reads it, nobody writes it
        region: options.Where = "anywhere",
        confine: options.Confine = False,
        strength: options.Strength = 1.0,
        seed: options.Seed = 0,
        restore: options.Restore = False,
        split: options.Split = "train",
        mask_threshold: options.Threshold = 0.5,
        shard: options.Shard = "1/1",
        engine: options.Engine = "",
        batch: options.Batch = None,
        prompt: options.Prompt = None,
        shape: options.Shape = None,
        trimap: options.Trimap = None,
        guidance: options.Guidance = None,
        stages: options.Stages = None,
        adaptation: options.Adaptation = None,
        renoise: options.Renoise = None,
        sheets: options.Sheets = False,
        as_json: AsJson = False,
    ) -> None:
        with said_plainly("Stopped. What is written is whole; the same command goes on."):
            from train.synthesis.command import check_words

            check_words(count=count, category=category, restore=restore, split=split, shard=shard)
            wishes = Wishes(prompt, shape, trimap, guidance, stages, adaptation, renoise, batch, sheets)
            with open_painter(run, engine, wishes) as painter:
                from train.synthesis.command import as_json as summary_as_json
                from train.synthesis.command import conclude, run_job

                summary = run_job(
                    painter,
                    run,
                    data,
                    out,
                    count=count,
                    category=category,
                    region=region,
                    strength=strength,
                    seed=seed,
                    restore=restore,
                    split=split,
                    threshold=mask_threshold,
                    confine=confine,
                    shard=shard,
                    placed=trimap is not None,
                    say=say,
                )
            if as_json:
                print_json(summary_as_json(summary, out))
            if not conclude(summary, out, restored=restore, say=say):
                raise typer.Exit(1)

    synthesize.__doc__ = description
    synthesize.__signature__ = _with_engine(inspect.signature(synthesize), default_engine)  # type: ignore[attr-defined]
    return synthesize


def _with_engine(words: inspect.Signature, default: str | None) -> inspect.Signature:
    """Its default, if it has one; --help shows the words that must be given first."""
    required = inspect.Parameter.empty
    engine = words.parameters["engine"].replace(default=required if default is None else default)
    given = (words.parameters | {"engine": engine}).values()
    return words.replace(parameters=sorted(given, key=lambda word: word.default is not required))
