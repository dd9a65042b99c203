"""Confidence intervals and tests of proportions."""

import math


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the ends of the 95% interval of a proportion (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.959963984540054, correct / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + side) / (1 + z * z / n) for side in (-half, half))
    return max(0.0, low), min(1.0, high)


def mcnemar_test(only_first: int, only_second: int) -> float:
    """Return the exact p-value that two classifiers are equally accurate (McNemar 1947).

    Args:
        only_first: images that only the first classifier predicts correctly.
        only_second: images that only the second classifier predicts correctly.
    """
    if only_first + only_second == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue)
