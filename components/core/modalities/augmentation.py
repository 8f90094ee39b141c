"""Rules of augmentation that tasks share, and mixup; pictures are augmented in their own task."""

import numpy as np
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from components.core.errors import InputError
from components.core.networks.network import Pytree
from components.core.settings import Settings


def augments(settings: Settings) -> bool:
    """Return whether records are augmented afresh in each epoch; views are augmented once and cached."""
    return settings.augment != "none" and not settings.views


def refuse_picture_augmentation(settings: Settings, records: str) -> None:
    """Refuse augmentations that only pictures support.

    Raises:
        InputError: The settings ask for an augmentation of pictures.
    """
    if settings.augment not in ("none", "basic"):
        raise InputError(
            f"--augment {settings.augment} is for pictures.", f"Use --augment basic for {records}, or none."
        )
    if settings.cutmix:
        raise InputError("--cutmix is for pictures.", f"Leave it out for {records}.")


def mixup(inputs: Pytree, targets: Tensor, alpha: float, classes: int, seed: int) -> tuple[Pytree, Tensor]:
    """Mix each example with its neighbour in the batch; targets become soft, [B, C] (Zhang et al. 2018).

    Args:
        inputs: Tensors [B, ...]; where they are activations at the thaw line, this is mixup of hidden states (Verma et
            al. 2019, "Manifold Mixup").
        targets: Class numbers, long[B], or what can be mixed as it is, float[B, C].
        alpha: Of the Beta distribution that the share is drawn from, one share a batch; 0 changes nothing.
        classes: C.
        seed: Of the draw.
    """
    if not alpha:
        return inputs, targets
    share = float(np.random.default_rng(seed).beta(alpha, alpha))

    def mixed(tensor: Tensor) -> Tensor:
        return tensor.lerp(tensor.roll(1, 0), 1 - share) if tensor.is_floating_point() else tensor

    soft = targets if targets.is_floating_point() else functional.one_hot(targets, classes).float()
    return tree_map_only(Tensor, mixed, inputs), mixed(soft)
