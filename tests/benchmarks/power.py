"""The gain that the gate tells with 80%, by test units and horizon: `python -m tests.benchmarks.power [ALPHA]`."""

import sys

import numpy as np
from scipy import special, stats

from components.core.evidence.alpha_spending import level

HORIZONS, UNITS, DISCORDANCES, POWER = (1, 4, 13, 26, 52), (50, 200, 1000, 4000), (0.04, 0.08, 0.15), 0.8


def power(units: int, discordance: float, gain: float, alpha: float) -> float:
    """Probability that the exact McNemar test at this level tells a challenger that is better by `gain`."""
    differ = np.arange(1, units + 1)
    shares = stats.binom.pmf(differ, units, discordance)
    total = 0.0
    for number, share in zip(differ[shares > 1e-9], shares[shares > 1e-9], strict=True):
        wins = np.arange(1, number + 1)
        enough = wins[special.betainc(wins, number - wins + 1, 0.5) <= alpha]
        if enough.size:
            total += share * stats.binom.sf(enough[0] - 1, number, min(1.0, 0.5 + gain / (2 * discordance)))
    return total


def smallest_gain(units: int, discordance: float, alpha: float) -> float | None:
    """The least gain told with `POWER`; None where even winning all differing units is not told."""
    low, high = 0.0, discordance
    if power(units, discordance, high, alpha) < POWER:
        return None
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if power(units, discordance, middle, alpha) < POWER else (low, middle)
    return high


def main() -> None:
    """Print a table for each share of units that differ."""
    alpha = float(sys.argv[1]) if len(sys.argv) > 1 else 0.05
    for discordance in DISCORDANCES:
        print(f"\nmodels differ on {discordance:.0%}, alpha {alpha:g}\n")
        print("| test units | " + " | ".join(f"{horizon} looks" for horizon in HORIZONS) + " |")
        print("|---" * (1 + len(HORIZONS)) + "|")
        for units in UNITS:
            gains = [smallest_gain(units, discordance, level(alpha, horizon)) for horizon in HORIZONS]
            print(f"| {units:,} | " + " | ".join("-" if g is None else f"{100 * g:.1f}" for g in gains) + " |")


if __name__ == "__main__":
    main()
