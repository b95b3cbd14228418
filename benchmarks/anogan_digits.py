"""AnoGAN on digits, one class against the rest: the experiment that its code was published with.

    python benchmarks/anogan_digits.py                     the classes that are missing; of scikit-learn's digits
    python benchmarks/anogan_digits.py --classes 2 --held-out-only --set filters=32     to choose settings

A class's own digits are good, the nine others are not. Of each class 10 are tested and, of the good one, 20 are held
out; the others are trained on. Settings are chosen by how held-out good digits are found again (`held_out_loss`),
which needs no other class. Writes benchmarks/results/anogan_digits.json and docs/images/anogan_digits.png: digits of
class 2, which the generator learned, and of class 6, which it did not, above what the search found and the difference.
MNIST itself: `python -m train unpack mnist FOLDER --out mnist`, then `python -m train table anogan --data mnist ...`.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

RESULTS = Path(__file__).parent / "results" / "anogan_digits.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "anogan_digits.png"
TEST, HELD_OUT, TRAIN = 10, 20, 140  # digits: per class; of the good class; of the good class
SCORED_AT_ONCE = 40
NORMAL, OTHER = 2, 6  # of the picture
ENLARGED = 2


def main(
    classes: Annotated[str, typer.Option(help="Good classes, separated by commas.")] = "0,1,2,3,4,5,6,7,8,9",
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the search.")] = 0,
    settings: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting.")] = [],  # noqa: B006
    held_out_only: Annotated[
        bool, typer.Option("--held-out-only", help="Look at no test digit; write nothing.")
    ] = False,
) -> None:
    """Train, search, print and write."""
    from train.config import config_digest, find_config, load_config
    from train.detectors.anogan import ANOGAN, AnoGANConfig

    config = load_config(find_config("anogan", "digits"), AnoGANConfig, [*settings, f"seed={seed}"])
    digest = config_digest(config)
    images, labels = digits()
    programs = Programs(config)
    for good in map(int, classes.split(",")):
        if not held_out_only and str(good) in read_rows(digest):
            continue
        started = time.monotonic()
        train, held_out, test, is_bad, names = split(images, labels, good, seed)
        weights, figures = programs.train(train, held_out)
        wanted = held_out if held_out_only else np.concatenate([held_out, test])
        scores, drawn = programs.search(weights, wanted)
        row = {"held_out_loss": float(scores[: len(held_out)].mean()), "spread": figures["spread"]}
        if not held_out_only:
            scores, drawn = scores[len(held_out) :], drawn[len(held_out) :]
            row["auroc"] = area(scores, is_bad)
            if good == NORMAL:
                draw(test, drawn, names)
                row["mean_score_of_2"] = float(scores[names == NORMAL].mean())
                row["mean_score_of_6"] = float(scores[names == OTHER].mean())
            rows = {**read_rows(digest), str(good): row}
            write(rows, seed, digest, ANOGAN.scoring_mode(config))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in row.items())
        print(f"{good}: {shown}   {time.monotonic() - started:.0f} s", flush=True)
    if rows := read_rows(digest):
        print(f"mean AUROC of {len(rows)} classes: {mean_auroc(rows):.4f}")


Rows = dict[str, dict[str, float]]


def read_rows(digest: str) -> Rows:
    """Classes that were run with these settings."""
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return dict(record["classes"]) if record.get("config_digest") == digest else {}


def write(rows: Rows, seed: int, digest: str, scoring: str) -> None:
    from train.durable import write_text

    record = {
        "set": "scikit-learn load_digits, 8 px enlarged to 28",
        "test_digits_per_class": TEST,
        "seed": seed,
        "config_digest": digest,
        "scoring": scoring,
        "mean_auroc": mean_auroc(rows),
        "classes": dict(sorted(rows.items())),
    }
    write_text(RESULTS, json.dumps(record, indent=1) + "\n")


def mean_auroc(rows: Rows) -> float:
    return sum(row["auroc"] for row in rows.values()) / len(rows)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 28, 28, 3] and labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit('The digits come with scikit-learn: pip install "faultline[dev]", or pip install scikit-learn.')
    pixels, labels = load_digits(return_X_y=True)
    small = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = np.stack([cv2.resize(image, (28, 28), interpolation=cv2.INTER_LINEAR) for image in small])
    return np.repeat(large[..., None], 3, axis=-1), labels


def split(images: np.ndarray, labels: np.ndarray, good: int, seed: int) -> tuple[np.ndarray, ...]:
    """Training, held-out and test digits, whether those are of another class, and of which."""
    order = np.random.default_rng(seed).permutation(len(images))
    of_class = {label: order[labels[order] == label] for label in range(10)}
    test = np.concatenate([members[:TEST] for members in of_class.values()])
    mine = of_class[good][TEST:]
    held_out, train = mine[:HELD_OUT], mine[HELD_OUT : HELD_OUT + TRAIN]
    return images[train], images[held_out], images[test], labels[test] != good, labels[test]


def area(scores: np.ndarray, is_bad: np.ndarray) -> float:
    from train.metrics.auroc import auroc, rank

    value = auroc(rank(scores, is_bad))
    assert value is not None
    return value


class Programs:
    """Training and search, compiled once for all classes."""

    def __init__(self, config: Any):
        import jax

        from train.detectors.anogan import ANOGAN
        from train.detectors.anogan.invert import invert
        from train.detectors.anogan.score import form_of, inversion
        from train.epochs import initial_state, training_steps

        self._config, self._detector = config, ANOGAN
        graph, _ = initial_state(ANOGAN, config)
        self._graph, self._steps = graph, training_steps(ANOGAN, config, graph)
        search = partial(invert, settings=inversion(config), layout=config.layout, form=form_of(config))
        self._search = jax.jit(lambda weights, x: search(weights.networks, x, weights.starts))

    def train(self, images: np.ndarray, held_out: np.ndarray) -> tuple[Any, dict[str, float]]:
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from train.data.batches import resident_batches
        from train.epochs import initial_state

        _, state = initial_state(self._detector, self._config)
        resident, total = jnp.asarray(images), self._config.epochs * self._config.steps_per_epoch
        batches = resident_batches(len(images), self._config.seed, start=0, stop=total, batch=self._config.batch_size)
        for batch in batches:
            state, _ = self._steps(state, jnp.asarray(batch)[None], resident)
        model = nnx.merge(self._graph, state.params, state.rest)
        model.eval()
        figures = self._detector.validate(model, jnp.asarray(held_out), jax.random.key(0), self._config)
        return self._detector.fold(model, None, self._config), {k: float(v.mean()) for k, v in figures.items()}

    def search(self, weights: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and what was found, in batches of one size."""
        from train.blocks.pixels import to_signed
        from train.chunks import in_chunks

        def loss_and_drawn(some: np.ndarray) -> tuple[Any, Any]:
            found = self._search(weights, to_signed(some, self._config.channels))
            return found.loss, found.drawn

        scores, drawn = in_chunks(loss_and_drawn, images, SCORED_AT_ONCE)
        return scores, drawn


def draw(images: np.ndarray, drawn: np.ndarray, labels: np.ndarray) -> None:
    """Six digits of each of the two classes: the digit, what was found, the difference."""
    from train.pictures import grid, to_bytes

    chosen = np.concatenate([np.flatnonzero(labels == label)[:6] for label in (NORMAL, OTHER)])
    found = to_bytes(drawn[chosen])
    difference = np.abs(images[chosen].astype(int) - found).astype(np.uint8)
    sheet = grid(np.concatenate([images[chosen], found, difference]), columns=len(chosen))
    grey = np.kron(sheet[..., 0], np.ones((ENLARGED, ENLARGED), np.uint8))
    cv2.imwrite(str(PICTURE), grey, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    typer.run(main)
