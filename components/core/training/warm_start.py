"""A training that starts from the champion's weights instead of the pretrained ones.

`prepare_data` lays the champion's checkpoint beside the data, so that all steps and all trials of a run start from the
same weights, whoever becomes champion meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from safetensors.torch import load_file
from torch import Tensor

from components.core.digests import digest
from components.core.errors import InputError
from components.core.networks.network import Network
from components.core.training.checkpoints import WEIGHTS, read_facts, weights_digest

Adapt: TypeAlias = Callable[
    [Network, Sequence[str], Mapping[str, Tensor], Mapping[str, Any]], tuple[Mapping[str, Tensor], Sequence[str]]
]  # the member of a task


def start_from(
    network: Network, checkpoint: Path, classes: Sequence[str], *, head: bool = True, adapt: Adapt | None = None
) -> str:
    """Put a checkpoint's weights into a network: all stages, and the head as far as the classes agree.

    The network's `weights_digest` becomes that of both, what it was built with and what it starts from.

    Args:
        network: Changed in place.
        checkpoint: Of the same backbone.
        classes: The network's, in the order of its head.
        head: Whether to take the head too: one that is solved for starts nowhere.
        adapt: The task's, which brings the checkpoint's weights into the shapes of the network.

    Returns:
        What was taken, in words.

    Raises:
        InputError: The stages are others.
    """
    facts, own = read_facts(checkpoint), network.state_dict()
    theirs: Mapping[str, Tensor] = load_file(checkpoint / WEIGHTS)
    before: Sequence[str] = facts["classes"]
    taken = sum(name in before for name in classes)
    if adapt is not None:
        theirs, before = adapt(network, classes, theirs, facts)
    stages = {name: tensor.shape for name, tensor in own.items() if name.startswith("stages.")}
    if stages != {name: tensor.shape for name, tensor in theirs.items() if name.startswith("stages.")}:
        raise InputError(
            f"The champion's stages (backbone {facts['settings']['backbone'] or 'default'}) don't fit this network.",
            "Leave out --warm-start, or use the champion's --backbone.",
        )
    found = _head(own, theirs, classes, before) if head and taken else {}
    network.load_state_dict(own | {name: theirs[name] for name in stages} | found)
    network.weights_digest = digest([network.weights_digest, weights_digest(checkpoint)])
    return f"all stages, and {f'its head for {taken} of {len(classes)} classes' if found else 'no head'}"


def _head(
    own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], classes: Sequence[str], before: Sequence[str]
) -> dict[str, Tensor]:
    """The head's tensors: theirs, of tensors with a row for each class the rows of common classes; none if it differs.

    Where as many units are hidden as there are classes, a hidden layer is taken for one with a row for each class: its
    rows are then in another order, or new. Where the classes differ and no tensor has a row for each, as where a blank
    stands before them, nobody knows whose rows these are.
    """
    names = {name for name in own if name.startswith("head.")}
    if names != {name for name in theirs if name.startswith("head.")}:
        return {}
    found, named = {}, list(classes) == list(before)
    for name in names:
        new, old = own[name], theirs[name]
        sizes = (len(new), len(old)) if new.dim() and old.dim() else (0, 0)
        if new.shape[1:] != old.shape[1:] or (sizes[0] != sizes[1] and sizes != (len(classes), len(before))):
            return {}
        found[name] = old
        if list(classes) != list(before) and sizes == (len(classes), len(before)):
            found[name], named = new.clone(), True
            for row, label in enumerate(classes):
                if label in before:
                    found[name][row] = old[before.index(label)]
    return found if named else {}
