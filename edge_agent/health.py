"""What the agent has done since its start: for the health message and for the summary at the end."""

import time
from collections import Counter

from edge_agent import clock
from edge_agent.decision import UnknownReason
from edge_agent.messages import DriftOfHealth, Health, Origin, Result, Verdict
from edge_agent.outbox import Outbox
from edge_agent.parts.source import PartCounts
from edge_agent.spool.spool import SpoolState


class Tally:
    """Counts given verdicts. One thread counts; others may read."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.verdicts: Counter[Verdict] = Counter()
        self.reasons: Counter[UnknownReason] = Counter()
        self.no_code = 0  # parts that have no id, because no code was read
        self._latencies_ms: list[float] = []  # since the last health message

    def count(self, result: Result, *, no_code: bool = False) -> None:
        self.verdicts[result.verdict] += 1
        if result.reason is not None:
            self.reasons[result.reason] += 1
        self.no_code += no_code
        self._latencies_ms.append(result.latency_ms)

    @property
    def parts(self) -> int:
        return sum(self.verdicts.values())

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started

    def health(
        self,
        origin: Origin,
        outbox: Outbox,
        *,
        engine_restarts: int = 0,
        commands_refused: int = 0,
        spool: SpoolState = SpoolState(),
        drift: tuple[DriftOfHealth, ...] = (),
        parts: PartCounts = PartCounts(),
        triggers_refused: int = 0,
    ) -> Health:
        """The state of things now; latencies start anew with each call."""
        latencies, self._latencies_ms = self._latencies_ms, []
        return Health(
            **origin.ids(),
            ts=clock.now(),
            uptime_s=round(self.uptime_s, 3),
            passed=self.verdicts["pass"],
            rejected=self.verdicts["reject"],
            unknown=self.verdicts["unknown"],
            triggers=parts.opened,
            parts_in_hand=max(0, parts.opened - self.parts),
            no_frame=self.reasons["no_frame"],
            missing_view=self.reasons["missing_view"],
            orphan=self.reasons["orphan"],
            duplicate=self.reasons["duplicate"],
            overrun=self.reasons["overrun"],
            late=self.reasons["late"],
            triggers_repeated=parts.redelivered,
            triggers_refused=triggers_refused,
            no_code=self.no_code,
            frames_dropped=parts.dropped,
            frames_late=parts.late,
            frames_repeated=parts.repeated,
            camera_reconnects=parts.reconnects,
            latency_mean_ms=round(sum(latencies) / len(latencies), 3) if latencies else None,
            latency_max_ms=max(latencies) if latencies else None,
            engine_restarts=engine_restarts,
            commands_refused=commands_refused,
            spool_files=spool.files,
            spool_size_bytes=spool.size_bytes,
            spool_dropped=spool.dropped,
            drift=drift,
            outbox_rows=len(outbox),
            outbox_size_bytes=outbox.size_bytes,
            outbox_held=outbox.held,
            evicted_results=outbox.evicted.results,
            evicted_images=outbox.evicted.images,
            time_sync=clock.time_sync(),
        )
