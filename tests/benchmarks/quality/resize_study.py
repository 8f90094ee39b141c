"""How a picture should become square: center crop, squash or pad, by a linear probe on the frozen default network.

    python -m tests.benchmarks.quality.resize_study FOLDER [--sets stamps photos …] [--sizes 160 224] [--splits 5]

Prints mean accuracy and log loss with their standard errors over random stratified splits, 30% of each to test; in the
last line the means over all sets and sizes, with the standard error over those. Splits are the same for all modes, so
differences are paired. Features are kept in FOLDER, as are the sets.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from tests.benchmarks.quality.probe import Array, picture_features, probe
from tests.benchmarks.quality.sets import PICTURES, pictures_of

MODES = ("crop", "squash", "pad")
TEST_SHARE = 0.3


def features_of(folder: Path, name: str, size: int) -> tuple[dict[str, Array], Array]:
    """Return the features of each mode, computed once, and the labels of a set."""
    files, labels = pictures_of(folder, name)
    kept = folder / "features" / f"{name}-{size}.npz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **picture_features(files, size, MODES))  # type: ignore[arg-type]  # no flag of savez among them
    with np.load(kept) as found:
        return {mode: found[mode] for mode in MODES}, labels


def probed(features: dict[str, Array], labels: Array, splits: int) -> dict[str, Array]:
    """Return accuracy and log loss of each mode on each split, float64[splits, 2]."""
    found: dict[str, list[list[float]]] = {mode: [] for mode in features}
    square = np.array_equal(features["squash"], features["pad"])
    drawn = StratifiedShuffleSplit(splits, test_size=TEST_SHARE, random_state=0)
    for train, test in drawn.split(labels, labels):
        for mode, rows in features.items():
            if mode == "pad" and square:
                found[mode].append(found["squash"][-1])
                continue
            one = probe(rows, labels, train, test)
            found[mode].append([one.accuracy, one.log_loss])
    return {mode: np.array(row) for mode, row in found.items()}


def spread(values: Array, sign: str = "") -> str:
    """Return a mean with its standard error, the latter where there are several values."""
    error = f" ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.3f}{error}"


def line(name: str, rows: str, size: str, found: dict[str, Array]) -> str:
    """Return a line of the table from accuracies and log losses of each mode, float64[N, 2]."""
    difference = found["pad"] - found["squash"]
    cells = [name, rows, size, *(spread(one[:, 0]) for one in found.values()), spread(difference[:, 0], "+")]
    return f"| {' | '.join([*cells, *(spread(one[:, 1]) for one in found.values()), spread(difference[:, 1], '+')])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=PICTURES, default=list(PICTURES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[160, 224])
    parser.add_argument("--splits", type=int, default=5)
    options = parser.parse_args()
    modes = f"{' | '.join(MODES)} | pad - squash"
    say(f"| set | rows | size | {modes} | {modes} |")
    say("|---" * 11 + "|")
    means: dict[str, list[Array]] = {mode: [] for mode in MODES}
    for size in options.sizes:
        for name in options.sets:
            features, labels = features_of(options.folder, name, size)
            found = probed(features, labels, options.splits)
            say(line(name, str(len(labels)), str(size), found))
            for mode, scores in found.items():
                means[mode].append(scores.mean(axis=0))
    whole = {mode: np.array(scores) for mode, scores in means.items()}
    say(line("mean", "", "", whole))
    better = "pad" if whole["pad"][:, 0].mean() > whole["squash"][:, 0].mean() else "squash"
    say(f"\nBetter in the mean accuracy: {better}")


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
