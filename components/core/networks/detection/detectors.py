"""Detectors as ordered stages and a head: any image backbone below a feature pyramid and an FCOS head, or a whole one.

The thaw line lies in the backbone. What flows is the latest map, the size of the picture, and those maps of lower
stages that the pyramid takes; so what is kept at a line above the first of these maps is several tensors.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, fx, nn
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from components.core.errors import InputError
from components.core.networks.detection.anchors import squares
from components.core.networks.detection.simple_pyramids import (
    SimplePyramid,
    TokenMap,
    are_tokens,
    doublings,
    patches,
    sides,
)
from components.core.networks.detection.whole_detectors import Whole, build_whole, is_whole
from components.core.networks.images.from_transformers import Block, unpooled
from components.core.networks.images.image_networks import Backbone, build_backbone, rebuild_backbone

STRIDES = (8, 16, 32)  # of the maps that the pyramid takes; two more lie above
GROUPS = 32  # of the group norms in torchvision's heads

Flow: TypeAlias = dict[str, Tensor]  # size [B, 2], latest [B, ...], and maps by their number, map0 [B, ...]


@dataclass(frozen=True)
class Maps:
    """A backbone up to its last map."""

    stages: tuple[nn.Module, ...]  # from a Flow of `latest` and `size` to one with all maps
    channels: tuple[int, ...]  # of the maps, from the finest to the coarsest
    grids: tuple[int, ...]  # their sides, and those of the two levels above
    backbone: Backbone
    whole: Whole | None = None  # the detector that they are of, whose own head serves
    doublings: int | None = None  # of the only map of a transformer, for the finest level


class Predictor(Protocol):
    """The last layers of a detector; the names of their outputs tell `targets` and `inference` its kind."""

    def __call__(self, levels: list[Tensor]) -> Mapping[str, Tensor]:
        """Outputs for A anchors or places in maps of all levels.

        Returns:
            `cls_logits` [B, A, C] and `bbox_regression` [B, A, 4] as in torchvision's detectors; of FCOS `bbox_ctrness`
            [B, A, 1], and of SSD `background` [B, A, 1] too. One of two steps gives those of `two_steps.Outputs`.
        """


class MapStage(nn.Module):
    """A stage of a backbone that hands on the size of the picture and the maps that the pyramid takes.

    Args:
        stage: From one map to the next.
        name: Under which its output goes to the pyramid; empty: it does not.
        last: Whether no stage follows.
    """

    def __init__(self, stage: nn.Module, name: str, *, last: bool) -> None:
        super().__init__()
        self.stage, self.name, self.last = stage, name, last

    def forward(self, flow: Flow) -> Flow:
        """Replace `latest`, and add it to the maps where the pyramid takes it."""
        latest = self.stage(flow["latest"])
        rest = {name: tensor for name, tensor in flow.items() if name != "latest"}
        kept = {self.name: latest} if self.name else {}
        # a second name of one tensor would be stored twice, so the next stage reads it under its own
        return {**({} if self.last or kept else {"latest": latest}), **rest, **kept}


class _Reader(nn.Module):
    """A stage that reads the map below it under the name that the pyramid takes it by."""

    def __init__(self, inner: MapStage, source: str) -> None:
        super().__init__()
        self.inner, self.source = inner, source

    def forward(self, flow: Flow) -> Flow:
        """Run the stage on the map of that name."""
        found: Flow = self.inner({**flow, "latest": flow[self.source]})
        return found


class DetectionHead(nn.Module):
    """The part of a detector above the maps of its backbone.

    Args:
        pyramid: From maps by name to the maps of all levels.
        predictor: A `Predictor`.
        anchors: One for each row of the predictor's outputs, as shares of the picture's sides, float[A, 4].
        dropout: Of the channels of the pyramid's maps.
    """

    def __init__(self, pyramid: nn.Module, predictor: nn.Module, anchors: Tensor, dropout: float) -> None:
        super().__init__()
        self.pyramid, self.predictor = pyramid, predictor
        self.dropout = nn.Dropout2d(dropout)
        self.anchors: Tensor
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Outputs of the `Predictor`, with `anchors` [B, A, 4] and `size` [B, 2], the picture's in pixels."""
        maps = {name: flow[name] for name in sorted(flow) if name.startswith("map")}
        levels = [self.dropout(level) for level in self.pyramid(maps).values()]
        found: dict[str, Tensor] = self.predictor(levels)
        size = flow["size"]
        # two steps give boxes of their own in place of the anchors
        return {"anchors": self.anchors.expand(size.shape[0], -1, -1), **found, "size": size}


def detection_head(maps: Maps, width: int, depth: int, classes: int, dropout: float) -> DetectionHead:
    """Return a new head for a backbone's maps; of a whole detector its own, new but for what knows the classes.

    Raises:
        InputError: Its group norms can't divide the width.
    """
    if maps.whole:
        # a copy, since another head may be made for the same maps
        return DetectionHead(deepcopy(maps.whole.pyramid), maps.whole.predictor(classes), maps.whole.anchors, dropout)
    if width % GROUPS:
        raise InputError(f"--option width={width} can't be used: it is no multiple of {GROUPS}.", "Use 64 or 128.")
    pyramid: nn.Module
    if maps.doublings is None:
        pyramid = FeaturePyramidNetwork(list(maps.channels), width, LastLevelP6P7(width, width))
    else:
        pyramid = SimplePyramid(maps.channels[0], width, maps.doublings)
    predictor = FCOSHead(width, num_anchors=1, num_classes=classes, num_convs=depth)
    return DetectionHead(pyramid, predictor, squares(maps.grids), dropout)


def build_maps(name: str, weights: str, image_size: int = 0) -> Maps:
    """A pretrained backbone of `build_backbone`, up to its last map, or that of a whole detector with its head.

    Raises:
        InputError: As `build_backbone`; or it has no maps of a pyramid's sizes, or is a detector of another kind.
    """
    if is_whole(name):
        return _of_whole(build_whole(name, weights, image_size))
    return _mapped(build_backbone(name, weights, image_size), name)


def rebuild_maps(name: str, preprocessing: Any, config: Mapping[str, Any]) -> Maps:  # noqa: ANN401 - of a checkpoint
    """The backbone of a checkpoint, with random weights."""
    if is_whole(name):
        return _of_whole(build_whole(name, "none", preprocessing["size"], config))
    return _mapped(rebuild_backbone(name, preprocessing, config), name)


def _of_whole(whole: Whole) -> Maps:
    return Maps(_wrapped(whole.stages, whole.places), (), (), whole.backbone, whole)


def _mapped(backbone: Backbone, name: str) -> Maps:
    """Wrap the stages up to the last map, of which the last one is cut behind it."""
    size = backbone.preprocessing["size"]
    wanted = [-(-size // stride) for stride in STRIDES]
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    stages, found = [stage for _, stage in backbone.stages], list[Tensor]()
    with torch.no_grad():
        for stage in stages[:-1]:
            found.append(stage(found[-1] if found else image))
        if maps := _of_tokens(backbone, found[-1]):
            return maps
        if not any(_side(one) == wanted[-1] for one in found):
            stages[-1] = _cut(stages[-1], found[-1], lambda value: _side(value) == wanted[-1])
        found.append(stages[-1](found[-1]))
    places = [max((i for i, one in enumerate(found) if _side(one) == side), default=-1) for side in wanted]
    if -1 in places or sorted({*places}) != places:
        known = ", ".join(dict.fromkeys(str(_side(one)) for one in found if _side(one))) or "none"
        raise InputError(
            f"{name} has no maps for a pyramid: their sides are {known}, and {', '.join(map(str, wanted))} are needed.",
            "Use a convolutional network, such as timm/tf_efficientnet_lite0 or torchvision/resnet50, or a plain "
            "vision transformer.",
        )
    channels = tuple(found[place].shape[1] for place in places)
    return Maps(_wrapped(stages[: places[-1] + 1], places), channels, _grids(wanted), backbone)


def _of_tokens(backbone: Backbone, value: Tensor) -> Maps | None:
    """Wrap the stages of a plain vision transformer, `value` entering the last one; None for another network."""
    stages, size = [stage for _, stage in backbone.stages], backbone.preprocessing["size"]
    side, features = patches(stages, size), value.shape[-1]
    if not are_tokens(value, side, features):
        return None
    last = _cut(stages[-1], value, lambda one: are_tokens(one, side, features))
    if not are_tokens(last(value), side, features):
        return None
    doubled, whole = doublings(size, side), [*stages[:-1], TokenMap(last, side)]
    places = [len(whole) - 1]
    return Maps(_wrapped(whole, places), (features,), _grids(sides(side, doubled)), backbone, doublings=doubled)


def _grids(sides: Sequence[int]) -> tuple[int, ...]:
    """Sides of the maps of all levels: of the pyramid's own, and of two above, each half as wide."""
    sixth = -(-sides[-1] // 2)
    return (*sides, sixth, -(-sixth // 2))


def _wrapped(stages: Sequence[nn.Module], places: Sequence[int]) -> tuple[nn.Module, ...]:
    """Stages that hand on the size and the maps; `places` are those whose output the pyramid takes."""
    wrapped: list[nn.Module] = []
    for number, stage in enumerate(stages):
        label = f"map{places.index(number)}" if number in places else ""
        one = MapStage(stage, label, last=number == places[-1])
        below = f"map{places.index(number - 1)}" if number - 1 in places else ""
        wrapped.append(_Reader(one, below) if below else one)
    return tuple(wrapped)


def _side(value: object) -> int:
    """Side of a square map [B, C, S, S]; 0 of anything else."""
    square = isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == value.shape[3]  # noqa: PLR2004 - a map
    return int(value.shape[2]) if isinstance(value, Tensor) and square else 0


def _cut(stage: nn.Module, value: Tensor, fits: Callable[[object], bool]) -> nn.Module:
    """The last stage up to the last value that fits, so without its pooling; as it is if none does."""
    if isinstance(stage, Block):
        return unpooled(stage)
    if not isinstance(stage, fx.GraphModule):
        return stage
    last: list[fx.Node] = []

    class Noted(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever the code computes
            result = super().run_node(n)
            if fits(result) and n.op not in {"placeholder", "output"}:
                last.append(n)
            return result

    with torch.no_grad():
        Noted(stage).run(value)
    if not last:
        return stage
    output = next(reversed(stage.graph.nodes))
    output.args = (last[-1],)
    stage.graph.eliminate_dead_code()
    stage.recompile()
    stage.delete_all_unused_submodules()
    return stage
