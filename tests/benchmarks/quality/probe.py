"""A linear probe: scikit-learn's logistic regression on the features of a frozen network.

What ten lines of scikit-learn reach, and so the least that fine-tuning has to reach.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch.utils._pytree import tree_leaves

from components.core.compute.allocator import keep_freed_memory
from components.core.fitting.data import Data
from components.core.inference import images
from components.core.networks.images.image_networks import build_backbone
from components.core.networks.network import Pytree
from components.core.training.phase import build_network

BACKBONE = "timm/tf_efficientnet_lite0"
WEIGHTS = "package:efficientnet-lite0"
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn, on standardized features
FOLDS = 3
BATCH = 64

Array = np.ndarray[Any, Any]


class Probed(NamedTuple):
    """What a probe reaches on the test rows."""

    accuracy: float
    log_loss: float
    strength: float  # the chosen C


def picture_features(files: Sequence[Path], size: int, modes: Sequence[str]) -> dict[str, Array]:
    """Compute the frozen network's features of pictures, float32[N, F], for each mode of making them square."""
    keep_freed_memory()
    backbone = build_backbone(BACKBONE, WEIGHTS, size)
    stages = [stage.eval().to(memory_format=torch.channels_last) for _, stage in backbone.stages]
    own = str(backbone.preprocessing["mode"])
    found: dict[str, list[Array]] = {mode: [] for mode in modes}
    for first in range(0, len(files), BATCH):
        pictures = [images.decode(file.read_bytes()) for file in files[first : first + BATCH]]
        for mode in modes:
            if mode == "pad" and "squash" in modes and all(one.width == one.height for one in pictures):
                found[mode].append(found["squash"][-1])
                continue
            preprocessing = {**backbone.preprocessing, "mode": own if mode == "weights" else mode}
            inputs = np.stack(
                [_normalized(np.asarray(images.resized(one, preprocessing)), preprocessing) for one in pictures]
            )
            with torch.inference_mode():
                batch = torch.from_numpy(inputs).to(memory_format=torch.channels_last)
                for stage in stages:
                    batch = stage(batch)
            found[mode].append(batch.float().flatten(1).numpy())
    return {mode: np.concatenate(batches) for mode, batches in found.items()}


def frozen_features(data: Data, rows: Sequence[int]) -> Array:
    """Compute what the frozen network of any task gives its head, float32[N, F], with the preprocessing of a run."""
    keep_freed_memory()
    network = build_network(data, data.settings.defaults()).eval()
    found = []
    for first in range(0, len(rows), BATCH):
        contents = data.examples.contents(rows[first : first + BATCH])
        with torch.inference_mode():
            batch = network.below(data.task.encode(contents, network.preprocessing), len(network.stages))
        found.append(_flat(batch, len(contents)))
    return np.concatenate(found)


def _flat(batch: Pytree, rows: int) -> Array:
    """The activations of a batch as one vector a row."""
    leaves = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]
    return torch.cat([leaf.float().reshape(rows, -1) for leaf in leaves], dim=1).numpy()


def _normalized(pixels: Array, preprocessing: Mapping[str, Any]) -> Array:
    mean, std = (np.array(preprocessing[name], np.float32) for name in ("mean", "std"))
    scaled: Array = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)
    return scaled


def probe(features: Array, labels: Array, train: Array, test: Array) -> Probed:
    """Fit a logistic regression on the training rows, C chosen by cross-validation among them, and test it.

    Args:
        features: float32[N, F] of all rows.
        labels: int64[N].
        train: Positions of the rows that it learns from.
        test: Positions of the rows that it is measured on.
    """
    strength = STRENGTHS[int(np.argmin(_validated(features[train], labels[train])))]
    scaler = StandardScaler().fit(features[train])
    model = _model(strength).fit(scaler.transform(features[train]), labels[train])
    chances = model.predict_proba(scaler.transform(features[test]))
    accuracy = float((model.classes_[chances.argmax(1)] == labels[test]).mean())
    return Probed(accuracy, log_loss(chances, np.searchsorted(model.classes_, labels[test])), strength)


def _validated(features: Array, labels: Array) -> Array:
    """Mean log loss over the folds, for each strength."""
    folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min())), shuffle=True, random_state=0)
    losses = []
    for fit, held in folds.split(features, labels):
        scaler = StandardScaler().fit(features[fit])
        inputs, held_inputs = scaler.transform(features[fit]), scaler.transform(features[held])
        model = _model(STRENGTHS[0])
        row = []
        for strength in STRENGTHS:  # from the strongest penalty on, each from the solution before
            model.set_params(C=strength).fit(inputs, labels[fit])
            row.append(log_loss(model.predict_proba(held_inputs), np.searchsorted(model.classes_, labels[held])))
        losses.append(row)
    mean: Array = np.mean(losses, axis=0)
    return mean


def _model(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, solver="lbfgs", max_iter=500, tol=1e-3, warm_start=True)


def log_loss(chances: Array, labels: Array) -> float:
    """Return the mean negative logarithm of the right class's probability; `chances` is [N, K]."""
    return float(-np.log(np.maximum(chances[np.arange(len(labels)), labels], 1e-12)).mean())
