"""CUSUM: finds that a mean has moved, soon after, at a stated rate of false alarms.

E. S. Page, Continuous inspection schemes, Biometrika 41 (1954). For each value and direction

    C = max(0, C + z - slack), alarm where C > limit, z = (value - mean) / spread, the sign turned for a fall

A slack of k finds a shift of 2k spreads soonest, and what creeps not before k: so there are two of each, a coarse one
that is quick and a fine one. The limit comes from D. Siegmund's approximation of the mean number of parts to a false
alarm (Sequential Analysis, 1985). The parts of a line are neither independent nor normal, nor is their mean known, so:

- neighbours that resemble each other count for less: the spread is that of the mean of many parts, sigma times
  sqrt((1 + r) / (1 - r)) for lag-1 correlation r (R. A. Johnson, M. Bagshaw, Technometrics 16, 1974);
- no single part counts for more than a tenth of the limit, so ten at least have to agree;
- the slack is wider by two standard errors of the reference's mean.

tests/edge_agent/test_drift_rates.py measures what this comes to. (river has such tests too, and brings pandas and
scipy to a device that needs neither.)
"""

from dataclasses import dataclass, field

import numpy as np

LEAST_PARTS = 10  # that have to agree
LEAST_SLACKS = (0.25, 0.06)  # spreads: of the coarse and of the fine one, where values vary much by themselves
MOST_SLACK = 1.0  # spreads; beyond it the spread is widened instead, so that little noise needs no large shift
MOST_CORRELATION = 0.9
SHOWN_PARTS = 50  # about, that `shift` looks back
CALM_PARTS = 200  # about, whose mean must be back before it is over: chance alone must not say so
CALM_MOST = 3.0  # spreads; what was far off is not remembered for longer than what was near


@dataclass(frozen=True, eq=False)
class Reference:
    """How m values should be, from n parts; all arrays float64 [m]."""

    mean: np.ndarray
    spread: np.ndarray  # of one part, widened for correlation
    parts: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Reference":
        """values: float64 [n, m], in the order of the parts; n of 3 and more."""
        mean, sigma = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
        centred = values - mean
        power = np.maximum((centred**2).sum(axis=0), np.finfo(float).tiny)
        correlation = np.clip((centred[1:] * centred[:-1]).sum(axis=0) / power, 0.0, MOST_CORRELATION)
        return cls(mean, sigma * np.sqrt((1.0 + correlation) / (1.0 - correlation)), len(values))


def limit_for(slack: np.ndarray, run_length: float) -> np.ndarray:
    """How far C may go, so that it stays there for `run_length` parts in the mean while nothing has moved."""
    low, high = np.zeros_like(slack), np.full_like(slack, 1e4) / np.maximum(slack, 1e-3)
    for _ in range(100):
        middle = (low + high) / 2.0
        short = _run_length(slack, middle) < run_length
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.asarray(high)


def _run_length(slack: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Siegmund: (exp(2 k b) - 2 k b - 1) / (2 k^2) with b = limit + 1.166, one-sided, nothing moved."""
    x = np.minimum(2.0 * slack * (limit + 1.166), 700.0)
    return np.asarray((np.exp(x) - x - 1.0) / (2.0 * slack**2))


@dataclass(eq=False)
class Cusum:
    """m values, each in four rows: a rise, a fall, coarse; a rise, a fall, fine."""

    reference: Reference
    worth: np.ndarray  # [m]: the smallest shift worth telling, in the values' units
    run_length: float  # mean parts to a false alarm of one value
    drifted: np.ndarray = field(init=False)  # bool [m]: alarmed, and not back yet
    shift: np.ndarray = field(init=False)  # [m]: how far off, in the values' units: since it moved, and lately

    def __post_init__(self) -> None:
        m = len(self.worth)
        self._spread = np.maximum(self.reference.spread, self.worth / (2.0 * MOST_SLACK))
        halves = self.worth / (2.0 * self._spread)
        slack = np.stack([np.clip(halves, least, MOST_SLACK) for least in LEAST_SLACKS for _ in ("rise", "fall")])
        self._limit = limit_for(slack, self.run_length * len(slack))
        self._slack = slack + 2.0 / np.sqrt(self.reference.parts)
        self._most = self._slack + self._limit / LEAST_PARTS
        self._sum = np.zeros_like(slack)
        self._since, self._off = np.zeros_like(slack), np.zeros_like(slack)  # parts, their z, since the sum was last 0
        self._recent, self._calm = np.zeros(m), np.zeros(m)  # mean z of late, to be shown and to be judged
        self.drifted, self.shift = np.zeros(m, bool), np.zeros(m)

    def observe(self, values: np.ndarray) -> np.ndarray:
        """float64 [m], NaN where this part says nothing -> bool [m]: what has begun to drift with it."""
        z = (values - self.reference.mean) / self._spread
        seen = np.isfinite(z)
        z = np.where(seen, z, 0.0)
        sides = np.stack([z, -z, z, -z])
        self._sum = np.maximum(0.0, self._sum + seen * (np.clip(sides, -self._most, self._most) - self._slack))
        running = self._sum > 0.0
        self._since = np.where(running, self._since + seen, 0.0)
        self._off = np.where(running, self._off + sides, 0.0)
        self._recent += seen * (z - self._recent) / SHOWN_PARTS
        self._calm += seen * (np.clip(z, -CALM_MOST, CALM_MOST) - self._calm) / CALM_PARTS
        crossed = self._sum > self._limit
        began = crossed.any(axis=0) & ~self.drifted
        if began.any():
            row = np.argmax(crossed, axis=0)[None]
            off, since = np.take_along_axis(self._off, row, 0)[0], np.take_along_axis(self._since, row, 0)[0]
            estimate = np.where(row[0] % 2 == 0, off, -off) / np.maximum(since, 1.0)
            self._recent = np.where(began, estimate, self._recent)  # a mean of late would lag behind
            self._calm = np.where(began, np.clip(estimate, -CALM_MOST, CALM_MOST), self._calm)
        back = self.drifted & (np.abs(self._calm) <= self._slack[-1] / 2.0)
        self.drifted = (self.drifted | began) & ~back
        self._sum[:, self.drifted | back] = 0.0  # it starts anew once it is back
        self.shift = self._recent * self._spread
        return np.asarray(began)
