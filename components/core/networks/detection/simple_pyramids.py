"""Maps of several sizes from the only one of a plain vision transformer, as ViTDet has them (Li et al. 2022)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

FINEST = 8  # pixels of a place in the finest of the three levels


class TokenMap(nn.Module):
    """The last stage of a transformer, with the tokens of its patches as a map.

    Args:
        stage: Gives tokens [B, T, H]; those of the class and registers come first, and are left out.
        side: Patches in a row.
    """

    def __init__(self, stage: nn.Module, side: int) -> None:
        super().__init__()
        self.stage, self.side = stage, side

    def forward(self, value: Tensor) -> Tensor:
        """Run the stage, and return a map [B, H, side, side]."""
        tokens: Tensor = self.stage(value)[:, -self.side * self.side :]
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, self.side, self.side)

    def extra_repr(self) -> str:
        """Stored activations are addressed by it."""
        return f"side={self.side}"


class SimplePyramid(nn.Module):
    """Three levels from one map, each by strides or transposed convolutions of its own, and two levels above.

    Args:
        channels: Of the map.
        width: Channels of the levels.
        doublings: How many times the sides of the map are doubled for the finest level.
    """

    def __init__(self, channels: int, width: int, doublings: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_level(channels, width, doublings - number) for number in range(3))
        self.above = LastLevelP6P7(width, width)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps of all levels, from the finest to the coarsest."""
        (given,) = maps.values()
        own = [level(given) for level in self.levels]
        found, names = self.above(own, own, [str(number) for number in range(len(own))])
        return dict(zip(names, found, strict=True))


def doublings(size: int, side: int) -> int:
    """Count how many times the sides of a map are doubled for the finest level."""
    return round(math.log2(size / side / FINEST))


def sides(side: int, doubled: int) -> list[int]:
    """Sides of the three levels."""
    return [math.ceil(side * 2.0 ** (doubled - number)) for number in range(3)]


def patches(stages: list[nn.Module], size: int) -> int:
    """Patches in a row, by the network's first convolution; 0 if it makes none that tile the picture."""
    first = next((one for stage in stages for one in stage.modules() if isinstance(one, nn.Conv2d)), None)
    if first is None or first.kernel_size != first.stride or first.kernel_size[0] < FINEST // 2:
        return 0
    return size // int(first.kernel_size[0])


def are_tokens(value: object, side: int, features: int) -> bool:
    """Return whether a value is a row of tokens [B, T, H], one for each patch at least."""
    if not isinstance(value, Tensor) or value.ndim != 3:  # noqa: PLR2004 - batch, tokens, features
        return False
    return value.shape[1] >= side * side > 0 and value.shape[2] == features and torch.is_floating_point(value)


def _level(channels: int, width: int, doubled: int) -> nn.Sequential:
    """One level, its sides those of the map, doubled or halved so many times."""
    parts: list[nn.Module] = []
    for number in range(doubled):
        if number:
            parts += [LayerNorm2d(channels), nn.GELU()]
        parts.append(nn.ConvTranspose2d(channels, channels := channels // 2, kernel_size=2, stride=2))
    parts += [nn.MaxPool2d(2, ceil_mode=True) for _ in range(-doubled)]
    parts += [nn.Conv2d(channels, width, kernel_size=1, bias=False), LayerNorm2d(width)]
    parts += [nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False), LayerNorm2d(width)]
    return nn.Sequential(*parts)
