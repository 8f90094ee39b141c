"""Features below the head, which training has kept already, and classifiers on them that are out of sample."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils._pytree import tree_leaves

from components.core.activations.rows import Rows
from components.core.contract.listener import SILENT, Listener
from components.core.errors import InputError, NoAnswerError
from components.core.fitting.data import Data
from components.core.fitting.thaw_line import rows_of_split
from components.core.networks.network import Network
from components.core.training.phase import base_network

Array: TypeAlias = np.ndarray[Any, Any]
FOLDS = 5  # of the cross-validation
MIN_ROWS = 20  # that a statement needs
MAX_FITTED_ROWS = 10_000  # rows that a classifier is fitted on: it costs seconds for these


def pretrained_features(data: Data, splits: Sequence[str], listener: Listener = SILENT) -> dict[str, Array] | None:
    """Features of some splits below the head of the pretrained network: a trained one knows its own rows.

    None, with a note, where the pretrained weights are no longer at hand: the model is trained, and can do without.

    Raises:
        NoAnswerError: A server of weights is silent.
    """
    try:
        network = base_network(data, data.settings.defaults())
    except NoAnswerError:  # the step tries again
        raise
    except InputError as error:
        listener.note(f"No linear probe, drift or suspicious labels: {error.sentence}")
        return None
    return {split: features(network, data, split, listener) for split in splits}


def features(network: Network, data: Data, split: str, listener: Listener = SILENT) -> Array:
    """Features below the head of a network for a split, float[N, d]; read where they are kept."""
    line = len(network.stages)
    return flattened(rows_of_split(network, data, {line: 2.0}, split, listener)[line])


def flattened(rows: Rows) -> Array:
    """Activations as float[N, d]: of a sequence [N, T, d] or a map [N, d, H, W] the mean of its places.

    All of them would fill memory.
    """
    parts = [
        torch.cat([_row(leaf.float()) for leaf in tree_leaves(rows[start : start + 1024])], dim=1)
        for start in range(0, len(rows), 1024)
    ]
    return np.asarray(torch.cat(parts).cpu().numpy()) if parts else np.zeros((0, 1), dtype=np.float32)


def _row(leaf: Tensor) -> Tensor:
    places = {3: (1,), 4: (2, 3)}.get(leaf.dim())
    return leaf.mean(places) if places else leaf.reshape(len(leaf), -1)


def out_of_sample(rows: Array, targets: Array, units: Array, seed: int) -> Array | None:
    """Probabilities float[n, k] of each class, by a classifier that saw neither the row nor its unit.

    None with fewer units than folds, or where a fold holds nothing, or all of a class.
    """
    if len(np.unique(units)) < FOLDS:
        return None
    found = np.zeros((len(rows), int(targets.max()) + 1))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fit, ask in folds.split(rows, targets, units):
        if not len(ask) or not np.isin(targets, targets[fit]).all():
            return None
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=100, tol=1e-3, class_weight="balanced")
        )
        model.fit(rows[fit], targets[fit])
        found[np.ix_(ask, model.classes_)] = model.predict_proba(rows[ask])
    return found
