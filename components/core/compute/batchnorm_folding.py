"""BatchNorm folded into the convolution before it: frozen stages with fewer passes over memory, within rounding.

A frozen norm is a scale and a shift for each channel, which the convolution's weights and bias can carry
(Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2).
"""

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from components.core.compute.onnx_exports import Prefix


def folded(prefix: Prefix) -> tuple[Prefix, int]:
    """A copy of the stages with every norm folded that only follows a convolution, and how many these are.

    Which module follows which is seen in a run on two examples. A use that no module shows, as by a function, is
    not seen: compare the copy's results with the original's.
    """
    twin = copy.deepcopy(prefix)
    pairs = _pairs(twin)
    owners = {child: (module, name) for module in twin.modules() for name, child in module.named_children()}
    for norm, convolution in pairs.items():
        _fold(convolution, norm)
        parent, name = owners[norm]
        parent.add_module(name, _rest(norm))
    return twin, len(pairs)


def _pairs(prefix: Prefix) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Norms and the convolutions whose output they take, where each runs once."""
    makers: dict[int, nn.Conv2d] = {}
    outputs: list[Tensor] = []  # kept alive: the id of a freed tensor is given to another one
    taken: list[tuple[nn.BatchNorm2d, nn.Conv2d]] = []
    calls = Counter[nn.Module]()

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            makers[id(output)] = module
            outputs.append(output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in makers and _known(module):
            taken.append((module, makers[id(inputs[0])]))

    watched = [module for module in prefix.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    handles = [module.register_forward_hook(look) for module in watched]
    try:
        with torch.no_grad():
            prefix(*(leaf[:2].to(prefix.device) for leaf in prefix.leaves))
    finally:
        for handle in handles:
            handle.remove()
    used = Counter(convolution for _, convolution in taken)
    return {n: c for n, c in taken if calls[n] == calls[c] == used[c] == 1}


def _known(norm: nn.BatchNorm2d) -> bool:
    """Return whether a norm does what its statistics say, then at most an activation (timm's norms hold their own)."""
    own = type(norm).forward is nn.BatchNorm2d.forward
    return norm.running_mean is not None and (own or isinstance(getattr(norm, "act", None), nn.Module))


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    activation = getattr(norm, "act", None)
    if not isinstance(activation, nn.Module):
        return nn.Identity()
    if hasattr(activation, "inplace"):
        # nobody else sees what the convolution gives, and the pass over memory is cheaper
        setattr(activation, "inplace", True)  # noqa: B010 - its type is that of any module
    return activation


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, variance = norm.running_mean, norm.running_var
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        mean,  # type: ignore[arg-type]  # a norm without statistics is not known
        variance,  # type: ignore[arg-type]  # as above
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.weight = nn.Parameter(weight.detach().contiguous(memory_format=torch.channels_last))
    convolution.bias = nn.Parameter(bias.detach())
