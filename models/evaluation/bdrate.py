"""The Bjøntegaard delta rate: how many bytes one curve takes more or fewer than another at equal quality.

As in ITU-T VCEG-AE07 and JVET-T2010: log rate as a function of quality, interpolated by piecewise cubic Hermite
polynomials (PCHIP), and its mean difference over the qualities that both curves have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bd_rate", "front"]

Curve = Sequence[tuple[float, float]]
"""Points of a curve: rate (above 0) and quality (more is better)."""


def front(curve: Curve) -> list[tuple[float, float]]:
    """Return the points that no other of the curve beats in rate and quality at once, in ascending order of both.

    Quality that is estimated from few frames is not monotonic in rate; a curve to interpolate must be.
    """
    best: list[tuple[float, float]] = []
    for rate, quality in sorted(curve, key=lambda point: (point[0], -point[1])):
        if not best or quality > best[-1][1]:
            best.append((rate, quality))
    return best


def bd_rate(anchor: Curve, test: Curve) -> float | None:
    """Return by how many percent the rate of ``test`` differs from that of ``anchor``; negative is fewer bytes.

    Only the `front` of each curve counts. None when one of them has fewer than two points, or when the curves have no
    range of quality in common.
    """
    one, other = front(anchor), front(test)
    if len(one) < 2 or len(other) < 2:
        return None
    low = max(one[0][1], other[0][1])
    high = min(one[-1][1], other[-1][1])
    if low >= high:
        return None
    difference = (_integral(other, low, high) - _integral(one, low, high)) / (high - low)
    return round(float(np.expm1(difference) * 100), 4)


def _integral(curve: Curve, low: float, high: float) -> float:
    """The integral of the curve's log rate over qualities from low to high, all within the curve."""
    rates, qualities = np.array(curve, np.float64).T
    y, widths = np.log(rates), np.diff(qualities)
    slopes = _slopes(widths, np.diff(y) / widths)
    total = 0.0
    for i, h in enumerate(widths):
        start, end = np.clip((np.array([low, high]) - qualities[i]) / h, 0, 1)
        # The cubic Hermite polynomial of the piece, in t from 0 to 1; ascending powers.
        a, b, rise = slopes[i] * h, slopes[i + 1] * h, y[i + 1] - y[i]
        cubic = np.polynomial.Polynomial([y[i], a, 3 * rise - 2 * a - b, a + b - 2 * rise]).integ()
        total += h * (cubic(end) - cubic(start))
    return float(total)


def _slopes(widths: NDArray[np.float64], secants: NDArray[np.float64]) -> NDArray[np.float64]:
    """The derivative at each point (Fritsch and Butland 1984): harmonic means of the secants, one-sided at ends.

    The curves are monotonic, so all secants have one sign and no slope needs to be zero.
    """
    if len(secants) == 1:
        return np.repeat(secants, 2)
    h0, h1, d0, d1 = widths[:-1], widths[1:], secants[:-1], secants[1:]
    inner = 3 * (h0 + h1) / ((2 * h1 + h0) / d0 + (h1 + 2 * h0) / d1)
    return np.concatenate(
        ([_end(h0[0], h1[0], d0[0], d1[0])], inner, [_end(h1[-1], h0[-1], d1[-1], d0[-1])]),
    )


def _end(near: float, far: float, near_secant: float, far_secant: float) -> float:
    """The derivative at an end, from the two pieces next to it, never below 0: the curve stays monotonic."""
    return max(float(((2 * near + far) * near_secant - near * far_secant) / (near + far)), 0.0)
