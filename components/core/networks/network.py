"""A network as ordered stages and a head; where it is cut is the thaw line."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Pytree: TypeAlias = Any  # nested tuples, lists and dicts of tensors, batch first (torch.utils._pytree)


class Network(nn.Module):
    """Stages, then a head. What flows between them is one pytree of tensors, batch first.

    Args:
        stages: From the input upwards; each takes one pytree and returns one.
        head: Takes what the last stage gives.
        preprocessing: What turns a raw record into the first stage's input, as JSON values.
        weights_digest: Identifies the pretrained weights of the stages.
        config: What a task needs to build the same stages without the pretrained weights, as JSON values.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        head: nn.Module,
        preprocessing: Mapping[str, Any],
        weights_digest: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.preprocessing = dict(preprocessing)
        self.weights_digest = weights_digest
        self.config = dict(config or {})

    def below(self, inputs: Pytree, line: int, start: int = 0) -> Pytree:
        """Run the stages from `start` up to the thaw line, which lies above `line` stages."""
        for stage in self.stages[start:line]:
            inputs = stage(inputs)
        return inputs

    def above(self, activations: Pytree, line: int) -> Pytree:
        """Run what lies above the thaw line, the head included."""
        return self.head(self.below(activations, len(self.stages), start=line))

    def forward(self, inputs: Pytree) -> Pytree:
        """The whole network."""
        return self.above(inputs, 0)


def set_thawed(network: Network, thaw: int) -> int:
    """Make the head and the last `thaw` stages trainable and everything else not; return the thaw line.

    Raises:
        ValueError: `thaw` is negative or more than the network has stages.
    """
    line = len(network.stages) - thaw
    if not 0 <= line <= len(network.stages):
        raise ValueError(f"thaw={thaw}, but the network has {len(network.stages)} stages")
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for module in (*network.stages[line:], network.head):
        for parameter in module.parameters():
            parameter.requires_grad_(True)
    return line


def set_training(network: Network, line: int) -> None:
    """Training mode above the line only, and nowhere for BatchNorm: its statistics stay those of the pretraining.

    Statistics of small batches would be others than those that the head was fitted to, and that the network serves with
    (as in detection, He et al. 2017).
    """
    network.eval()
    for module in (*network.stages[line:], network.head):
        module.train()
        for norm in filter(lambda one: isinstance(one, _BatchNorm), module.modules()):
            norm.eval()
