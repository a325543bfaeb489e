"""Means over seeds, and how far a mean may be from a published one."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEVEL = 0.95
"""Of all intervals."""


@dataclass(frozen=True)
class Sample:
    """Values of one number, one a seed."""

    values: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / self.count

    @property
    def deviation(self) -> float | None:
        """The standard deviation with n − 1 below; None of a single value."""
        if self.count < 2:
            return None
        mean = self.mean
        # hypot, as squares of large values would overflow and those of small ones vanish.
        return math.hypot(*(value - mean for value in self.values)) / math.sqrt(self.count - 1)


@dataclass(frozen=True)
class Difference:
    """A mean over seeds less a published one."""

    value: float
    low: float | None = None
    """Ends of the interval; None where one seed gives none."""
    high: float | None = None
    test: str = ""
    """``"one-sample t"`` or ``"Welch"``."""

    @property
    def seen(self) -> bool | None:
        """Whether the interval leaves zero out; None without one."""
        if self.low is None or self.high is None:
            return None
        return not self.low <= 0.0 <= self.high


def difference(
    sample: Sample, mean: float, deviation: float | None = None, count: int = 0
) -> Difference:
    """Ours less the published ``mean``, with its interval.

    With the published ``deviation`` over ``count`` runs it is Welch's; without, Student's for one
    sample, which takes the published mean as if it were exact.
    """
    value = sample.mean - mean
    own = sample.deviation
    if own is None:
        return Difference(value)
    first = own / math.sqrt(sample.count)
    freedom, error, test = float(sample.count - 1), first, "one-sample t"
    if deviation is not None and count > 1:
        second = deviation / math.sqrt(count)
        error, test = math.hypot(first, second), "Welch"
        if error > 0:
            # By shares of the variance, as squares of large or small errors leave the range.
            ours, theirs = (first / error) ** 2, (second / error) ** 2
            freedom = 1.0 / (ours**2 / (sample.count - 1) + theirs**2 / (count - 1))
    half = t_quantile(0.5 + LEVEL / 2, freedom) * error
    return Difference(value, value - half, value + half, test)


def t_quantile(probability: float, freedom: float) -> float:
    """The value below which Student's t stays with the probability.

    Args:
        probability: above 0 and below 1.
        freedom: degrees of freedom, above 0, whole or not.

    Raises:
        ValueError: either is outside its range.
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"t_quantile: expected 0 < probability < 1, got {probability!r}")
    if not 0.0 < freedom < math.inf:
        raise ValueError(f"t_quantile: expected freedom > 0 and finite, got {freedom!r}")
    if probability < 0.5:
        return -t_quantile(1.0 - probability, freedom)
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability and high < 1e300:
        low, high = high, 2.0 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if t_probability(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def t_probability(value: float, freedom: float) -> float:
    """The probability that Student's t is at most ``value``."""
    tail = 0.5 * _incomplete_beta(0.5 * freedom, 0.5, freedom / (freedom + value * value))
    return 1.0 - tail if value > 0 else tail


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):  # where the continued fraction converges fast
        return math.exp(log_front) * _beta_fraction(a, b, x) / a
    return 1.0 - math.exp(log_front) * _beta_fraction(b, a, 1.0 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b) (Abramowitz and Stegun, 26.5.8), by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    result = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return result
