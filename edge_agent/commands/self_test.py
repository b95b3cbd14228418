"""The golden set on the engine in service, while parts go on between its images."""

from collections.abc import Callable

import numpy as np

from edge_agent.bundle import BundleError, read_golden
from edge_agent.control import Control
from edge_agent.engines import EngineError, Scores
from edge_agent.engines.golden import compare, excess
from edge_agent.messages import AckReason, Golden
from edge_agent.models.judge import Judge

ANSWER_S = 60.0  # for one image; an engine that hangs is replaced long before


def self_test(control: Control, judge: Judge, engine: Callable[[], str]) -> tuple[AckReason | None, str, Golden | None]:
    """Why it failed (None: it agrees), the sentence, and what was measured. Takes as long as the images do.

    judge: is being held; another one may come into service meanwhile.
    """
    bundle = judge.bundle
    try:
        golden = read_golden(bundle)
        answers = [control.ask(judge, image[None], ANSWER_S) for image in golden.images]
        result = compare(Scores(*(np.concatenate(values) for values in zip(*answers, strict=True))), golden)
    except (EngineError, BundleError) as error:
        return "engine_failed", str(error), None
    except Exception as error:  # an answer of another shape
        return "engine_failed", f"{type(error).__name__}: {error}", None
    finite = np.isfinite([result.map_error, result.score_error]).all()
    measured = Golden(**vars(result)) if finite else None
    if too_far := excess(result, bundle):
        return "disagrees", f"{engine()} disagrees with the golden set: {too_far}, over {result.n} images.", measured
    return None, f"{engine()} agrees with the golden set, {result.n} images.", measured
