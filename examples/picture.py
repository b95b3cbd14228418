"""README's picture, made of drawn parts: part | anomaly map | decision, a row for each image.

python examples/picture.py BUNDLE IMAGE [IMAGE ...] --out docs/images/decisions.png
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from edge_agent.bundle import open_bundle
from edge_agent.decision import decide
from edge_agent.engines import open_engine
from edge_agent.pictures import overlay
from edge_agent.preprocess import prepare, read_image

SIDE, GAP, CAPTION = 192, 8, 28  # pixels
PAPER, INK = 255, (40, 40, 40)
COLOURS = {"pass": (26, 127, 55), "reject": (190, 30, 30), "unknown": (190, 130, 0)}  # RGB


def main(
    bundle: Annotated[Path, typer.Argument(help="The folder that `export bundle` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Images of parts.")],
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")],
) -> None:
    """Compose the picture."""
    opened = open_bundle(bundle)
    preprocessing = opened.manifest.preprocessing
    engine = open_engine(opened)
    rows = []
    for path in images:
        whole = read_image(path)
        image = prepare(whole, preprocessing)
        scores = engine.run(image[None])
        decision = decide(scores, preprocessing=preprocessing, frame_size=(whole.shape[1], whole.shape[0]))
        score = float(scores.image_score[0])
        rows.append(
            _beside(
                _captioned(whole, path.parent.name.replace("_", " "), INK),
                _captioned(_colours(scores.anomaly_map[0]), "anomaly map", INK),
                _captioned(
                    overlay(image, scores.anomaly_map[0]),
                    f"{decision.verdict}   score {score:.2f}",
                    COLOURS[decision.verdict],
                ),
            )
        )
    engine.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    smallest = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    out.write_bytes(cv2.imencode(".png", np.concatenate(rows)[..., ::-1], smallest)[1].tobytes())


def _colours(anomaly_map: np.ndarray) -> np.ndarray:
    """Normalised float32 [h, w] -> RGB; the threshold is half way up the colours, as in `overlay`."""
    level = (255 * np.clip(anomaly_map / 2, 0, 1)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(level, cv2.COLORMAP_TURBO)[..., ::-1])


def _captioned(image: np.ndarray, text: str, colour: tuple[int, int, int]) -> np.ndarray:
    image = cv2.resize(np.ascontiguousarray(image), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    strip = np.full((CAPTION, SIDE, 3), PAPER, np.uint8)
    cv2.putText(strip, text, (2, CAPTION - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def _beside(*columns: np.ndarray) -> np.ndarray:
    gap = np.full((columns[0].shape[0], GAP, 3), PAPER, np.uint8)
    return np.concatenate([columns[0], gap, columns[1], gap, columns[2]], axis=1)


if __name__ == "__main__":
    typer.run(main)
