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
        self._first = done
        self._started = self._said = time.monotonic()
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
            self.say(
                f"{self._what} {self._done}/{self._total}, {self._remaining(now)} left{', ' + note if note else ''}"
            )

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
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        seconds = (self._total - self._done) / rate if rate > 0 else 0.0
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

    def __enter__(self) -> "Work":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
