"""Classes as the target of a task: loss, validation figures, temperature; its test figures are beside it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from components.core.inference.classification import Answer, answers
from components.core.targets import classification_metrics

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.1, 10.0
SPREAD = 0.3  # of the temperature's logarithm before any row is seen


class Classification:
    """One class for each record, any text."""

    metrics = classification_metrics.METRICS
    convex = True
    answer: type = Answer
    answers = staticmethod(answers)
    evaluate = staticmethod(classification_metrics.evaluate)
    scores = staticmethod(classification_metrics.scores)

    def names(self, labels: Sequence[str]) -> list[list[str]]:
        """Each label is one class."""
        return [[label] for label in labels]

    def strata(self, labels: Sequence[str]) -> list[str]:
        """Each label is a class, so splits are stratified by it."""
        return list(labels)

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
        """Labels as class numbers, long[N].

        Raises:
            ValueError: A label is not among the classes.
        """
        numbers = {name: number for number, name in enumerate(classes)}
        if unknown := sorted(set(labels) - numbers.keys()):
            raise ValueError(f"labels that are not among the classes: {', '.join(unknown)}")
        return torch.tensor([numbers[label] for label in labels], dtype=torch.long)

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy, a scalar mean; `outputs` are logits[B, C], `targets` class numbers[B] or mixed ones[B, C]."""
        return functional.cross_entropy(outputs, targets, weight=class_weights, label_smoothing=label_smoothing)

    def class_weights(self, targets: Tensor, size: int) -> Tensor:
        """Weights float[C] that are inverse to the classes' frequency, n / (C * n_c), so the mean weight of a row is 1.

        Args:
            targets: Class numbers of the training rows, long[N].
            size: Number of classes. C counts those of them that have rows; a class without any weighs 0.
        """
        counts = torch.bincount(targets, minlength=size)
        weights = len(targets) / (torch.count_nonzero(counts) * counts)
        return torch.where(counts > 0, weights, 0.0)

    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Figures of a whole split from logits[N, C] and class numbers[N].

        `loss` is the cross-entropy without smoothing or weights, so trials that differ in these can be compared;
        `balanced_accuracy` is the mean recall of the classes that occur in `targets`.
        """
        correct = (outputs.argmax(1) == targets).double()
        support = torch.bincount(targets, minlength=outputs.shape[1])
        recall = (
            torch.bincount(targets, weights=correct, minlength=outputs.shape[1])[support > 0] / support[support > 0]
        )
        return {
            "loss": float(functional.cross_entropy(outputs, targets)),
            "accuracy": float(correct.mean()),
            "balanced_accuracy": float(recall.mean()),
        }

    def calibrate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Fit the temperature that divides the logits[N, C] when serving."""
        return {"temperature": fit_temperature(outputs, targets)}


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The T that suits softmax(logits[N, C] / T) (Guo et al. 2017), between 0.1 and 10; few rows stay close to 1.

    1.0 where no T lowers the log loss of these rows, where there are none, and where every row is answered right:
    then the likelihood grows without end as T falls, and the rows can't tell how sure the network may be.
    """
    if bool((logits.argmax(1) == targets).all()):
        return 1.0
    exact = logits.double()

    def log_loss(temperature: float) -> float:
        return float(functional.cross_entropy(exact / temperature, targets))

    return best_temperature(log_loss, len(targets))


def best_temperature(log_loss: Callable[[float], float], answers: int) -> float:
    """The most probable temperature between 0.1 and 10; 1.0 where none lowers the log loss.

    Its logarithm has a Cauchy prior around 0: twenty rows alone would miss it by a factor of 1.5, while hundreds hardly
    feel the prior, however far from 1 they are (Gelman et al. 2008 on weakly informative priors).

    Args:
        log_loss: The mean log loss of some answers at a temperature.
        answers: How many.
    """
    bounds = (np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE))

    def surprise(logarithm: float) -> float:
        return log_loss(float(np.exp(logarithm))) + float(np.log1p((logarithm / SPREAD) ** 2)) / answers

    best = optimize.minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(best.x)) if best.fun < log_loss(1.0) else 1.0
