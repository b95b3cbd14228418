"""From scores to the result message: what each camera says about a part, and what that comes to."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent import clock
from edge_agent.decision import UnknownReason, Verdict, decide, unknown
from edge_agent.engines import Scores
from edge_agent.messages import ImageSize, Model, Origin, RegionOfResult, Result, View
from edge_agent.models.judge import Judge
from edge_agent.parts import Part

NO_CODE = "No code was read in the frame."


@dataclass(frozen=True)
class Seen:
    """What an onlooker may know of a view."""

    camera: str
    verdict: Verdict
    image_score: float | None
    threshold: float  # that image_score was compared with
    model: Model


def view_of(
    camera: str,
    judge: Judge | None,
    scores: Scores | None,
    size: tuple[int, int] | None,
    threshold: float,
    reason: UnknownReason | None,
    detail: str | None,
) -> View:
    """What one camera says. size: width, height of its frame. reason: why there are no scores."""
    if scores is None or judge is None:
        decision = unknown(reason or "engine_failed")
    else:
        decision = decide(scores, threshold, preprocessing=judge.preprocessing, frame_size=size)
    sound = scores is not None and decision.verdict != "unknown"
    return View(
        camera=camera,
        verdict=decision.verdict,
        reason=decision.reason,
        detail=detail,
        image_score=float(scores.image_score[0]) if sound and scores else None,
        raw_score=float(scores.raw_score[0]) if sound and scores else None,
        model=None if judge is None else judge.model,
        regions=tuple(RegionOfResult(**vars(region)) for region in decision.regions),
        regions_total=decision.regions_total,
        image=ImageSize(width=size[0], height=size[1]) if size else None,
    )


def result_of(
    part: Part, views: Sequence[View], origin: Origin, threshold: float, *, paused: bool = False, no_code: bool = False
) -> Result:
    """The verdict on a part. Any reject rejects it; else any unknown makes it unknown; nothing late is a pass."""
    verdict, reason, detail = _together(views)
    now_ns = time.monotonic_ns()
    looked_at = False
    if part.reason is not None:
        verdict, reason, detail = "unknown", part.reason, part.detail
    elif paused:
        verdict, reason, detail = "unknown", "paused", "A command has paused the agent; `resume` ends it."
    elif verdict != "unknown" and part.due_ns is not None and now_ns > part.due_ns:
        verdict, reason, detail = "unknown", "late", too_late(part, now_ns)
    else:
        looked_at = True
    one = views[0] if looked_at and len(views) == 1 else None
    scores = [view.image_score for view in views if view.image_score is not None]
    return Result(
        **origin.ids(),
        result_id=origin.result_id(part.sequence),
        sequence=part.sequence,
        part=part.id,
        trigger_id=None if part.trigger is None else part.trigger.trigger_id,
        product=part.product,
        ts=clock.rfc3339(part.at),
        ts_mono_ns=part.ts_mono_ns,
        time_sync=clock.time_sync(),
        verdict=verdict,
        reason=reason,
        detail=detail or (NO_CODE if no_code else None),
        image_score=max(scores) if verdict != "unknown" else None,
        threshold=threshold,
        raw_score=one.raw_score if one else None,
        model=views[0].model,
        regions=one.regions if one else (),
        regions_total=sum(view.regions_total for view in views) if looked_at else 0,
        image=one.image if one else None,
        views=tuple(views) if looked_at and len(views) > 1 else (),
        latency_ms=round(max(0, now_ns - part.ts_mono_ns) / 1e6, 3),
    )


def too_late(part: Part, now_ns: int) -> str:
    """Why a part with a deadline is `late`."""
    took_ms, allowed_ms = (now_ns - part.ts_mono_ns) / 1e6, ((part.due_ns or 0) - part.ts_mono_ns) / 1e6
    return f"The verdict came {took_ms:.0f} ms after the trigger; deadline_ms is {allowed_ms:g}."


def _together(views: Sequence[View]) -> tuple[Verdict, UnknownReason | None, str | None]:
    if rejects := [view for view in views if view.verdict == "reject"]:
        return "reject", None, rejects[0].detail
    missing = [view for view in views if view.reason == "no_frame"]
    if missing and len(views) > 1 and len(missing) < len(views):
        return "unknown", "missing_view", missing[0].detail
    unknowns = [view for view in views if view.verdict == "unknown"]
    if unknowns:
        return "unknown", unknowns[0].reason, unknowns[0].detail
    return "pass", None, None
