"""How sure a rate is that was counted on few images: exact intervals, no normal approximation."""

import math

from scipy.special import betaincinv

CONFIDENCE = 0.95


def clopper_pearson(events: int, trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Rates that agree with `events` of `trials` (Clopper and Pearson 1934); (0, 1) where nothing was tried."""
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events of {trials} trials is not a count.")
    tail = (1 - confidence) / 2
    low = float(betaincinv(events, trials - events + 1, tail)) if events > 0 else 0.0
    high = float(betaincinv(events + 1, trials - events, 1 - tail)) if events < trials else 1.0
    return low, high


def exceedance_interval(position: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The share of a population that lies above the `position`-th smallest (from 1) of `n` values drawn from it.

    That share is Beta(n + 1 - position, position) distributed whatever the population, if it has no ties; ties only
    lower it. Its mean is (n + 1 - position) / (n + 1).
    """
    if not 1 <= position <= n:
        raise ValueError(f"There is no value number {position} of {n}.")
    tail = (1 - confidence) / 2
    shape = n + 1 - position, position
    return float(betaincinv(*shape, tail)), float(betaincinv(*shape, 1 - tail))


def percent(rate: float) -> str:
    """A rate as text, `2.3 %`: two digits that tell it from 0 %, and as many as tell it from 100 %."""
    value = 100 * rate
    if value == round(value):
        return f"{value:.0f} %"
    decimals = max(0, 1 - math.floor(math.log10(min(value, 100 - value))))
    text = f"{value:.{decimals}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"
