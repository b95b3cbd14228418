"""Progress of long work: a bar with an ETA on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0


class Work:
    """`with Work("training", total) as work: work.done(1, note)`; notes are short figures shown beside the bar."""

    def __init__(self, what: str, total: int, *, done: int = 0, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._what, self._total, self._done = what, total, done
        self._said = time.monotonic()
        self._rate_from: tuple[float, int] | None = None  # when the first was done, which often compiles, and how many
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def done(self, count: int = 1, note: str = "") -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, note=note)
            return
        now = time.monotonic()
        if now - self._said >= LINE_EVERY_S:
            self._said = now
            parts = (f"{self._what} {self._done}/{self._total}", self._remaining(now), note)
            self.say(", ".join(part for part in parts if part))
        if self._rate_from is None:
            self._rate_from = now, self._done

    def reached(self, done: int, total: int) -> None:
        """The same for a callback that is told how far it has come, of how much."""
        if total != self._total:
            self._total = total
            if self._bar is not None:
                self._bar.update(self._task, total=total)
        self.done(done - self._done)

    def say(self, line: str) -> None:
        """A line that stays."""
        (self._bar.console if self._bar is not None else self._console).print(
            line, highlight=False, markup=False, soft_wrap=True
        )

    def _remaining(self, now: float) -> str:
        """By what was done after the first; "" where there was nothing."""
        since, count = self._rate_from or (now, self._done)
        if self._done == count:
            return ""
        seconds = (self._total - self._done) * (now - since) / (self._done - count)
        return f"{seconds:.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"

    def __enter__(self) -> "Work":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
