"""Detectors as ordered stages and a head: any image backbone below a feature pyramid and an FCOS head.

The thaw line lies in the backbone. What flows is the latest map, the size of the picture, and those maps of lower
stages that the pyramid takes; so what is kept at a line above the first of these maps is several tensors.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torchvision.models import detection, list_models
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from components.core.errors import InputError
from components.core.networks.images import Backbone, build_backbone, rebuild_backbone
from components.core.networks.weights import SkipInit, fit_state, load_state, state_digest
from components.core.weight_sources import is_source

if TYPE_CHECKING:
    from components.core.inference.images import Preprocessing

FCOS = "torchvision/fcos_resnet50_fpn"
FCOS_SIZE = 512  # pixels; it was trained on about 800 x 1066
KNOWS_CLASSES = "head.classification_head.cls_logits"

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
    head: Mapping[str, Tensor] = field(default_factory=dict)  # pretrained tensors of a `DetectionHead`, by name
    width: int = 0  # of that head
    depth: int = 0


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
    """A feature pyramid (Lin et al. 2017) and the head of FCOS (Tian et al. 2019), both torchvision's.

    Args:
        channels: Of the maps.
        width: Channels of the pyramid, a multiple of 32.
        depth: Convolutions of each of the head's two towers.
        classes: Number of classes.
        grids: Sides of the maps of all levels.
        dropout: Of the channels of the pyramid's maps.
        at_corner: Whether a place's anchor lies at its upper left corner, as torchvision's weights have learned it.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        depth: int,
        classes: int,
        grids: Sequence[int],
        dropout: float,
        *,
        at_corner: bool = False,
    ) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(channels), width, LastLevelP6P7(width, width))
        self.dropout = nn.Dropout2d(dropout)
        self.fcos = FCOSHead(width, num_anchors=1, num_classes=classes, num_convs=depth)
        self.anchors: Tensor
        self.register_buffer("anchors", anchors(grids, 0.0 if at_corner else 0.5), persistent=False)

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Outputs for A places in all levels.

        Returns:
            `cls_logits` [B, A, C], `bbox_regression` [B, A, 4] and `bbox_ctrness` [B, A, 1] as in torchvision's FCOS,
            `anchors` [B, A, 4] as shares of the sides, and `size` [B, 2], width and height of the picture in pixels.
        """
        maps = {name: flow[name] for name in sorted(flow) if name.startswith("map")}
        levels = [self.dropout(level) for level in self.pyramid(maps).values()]
        found: dict[str, Tensor] = self.fcos(levels)
        size = flow["size"]
        return {**found, "anchors": self.anchors.expand(size.shape[0], -1, -1), "size": size}


def anchors(grids: Sequence[int], shift: float = 0.5) -> Tensor:
    """One square for each place of each level, a place wide, as shares of the picture's sides: float[A, 4].

    `shift` is where in its place the middle of a square lies.
    """
    found = []
    for grid in grids:
        centers = (torch.arange(grid) + shift) / grid
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        center, half = torch.stack([x, y, x, y], dim=-1).reshape(-1, 4), 0.5 / grid
        found.append(center + torch.tensor([-half, -half, half, half]))
    return torch.cat(found)


def detection_head(maps: Maps, width: int, depth: int, classes: int, dropout: float) -> DetectionHead:
    """Return a new head for a backbone's maps; of a whole detector its own, new but for what knows the classes.

    Raises:
        InputError: Its group norms can't divide the width.
    """
    if maps.width:
        head = DetectionHead(maps.channels, maps.width, maps.depth, classes, maps.grids, dropout, at_corner=True)
        head.load_state_dict(maps.head, strict=False)
        return head
    if width % GROUPS:
        raise InputError(f"--option width={width} can't be used: it is no multiple of {GROUPS}.", "Use 64 or 128.")
    return DetectionHead(maps.channels, width, depth, classes, maps.grids, dropout)


def build_maps(name: str, weights: str, image_size: int = 0) -> Maps:
    """A pretrained backbone of `build_backbone`, up to its last map, or that of a whole detector with its head.

    Raises:
        InputError: As `build_backbone`; or it has no maps of a pyramid's sizes, or is a detector of another kind.
    """
    if name == FCOS:
        return _of_fcos(weights, image_size)
    if name.startswith("torchvision/") and name.removeprefix("torchvision/") in list_models(module=detection):
        raise InputError(
            f"{name} is a detector of another kind than FCOS.",
            f"Use {FCOS}, or a backbone such as torchvision/resnet50.",
        )
    return _mapped(build_backbone(name, weights, image_size), name)


def rebuild_maps(name: str, preprocessing: Any, config: Mapping[str, Any]) -> Maps:  # noqa: ANN401 - of a checkpoint
    """The backbone of a checkpoint, with random weights."""
    if name == FCOS:
        return _of_fcos("none", preprocessing["size"])
    return _mapped(rebuild_backbone(name, preprocessing, config), name)


def _of_fcos(weights: str, image_size: int) -> Maps:
    """Torchvision's FCOS on a ResNet-50, with weights for COCO's classes."""
    from components.core.networks import images_torchvision

    size, what = image_size or FCOS_SIZE, f"The weights {weights} of {FCOS}"
    network_name = FCOS.partition("/")[2]
    choice = images_torchvision.choose_weights(network_name, weights)
    with nullcontext() if weights == "none" else SkipInit():
        whole = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    if weights != "none":
        own = choice is None or is_source(weights)
        state = load_state(weights) if own else images_torchvision.download_weights(choice, network_name)
        fit_state(whole, state, KNOWS_CLASSES, what)
    body, tensors = whole.backbone.body, whole.state_dict()
    stages = (
        nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool),
        *(body.layer1, body.layer2, body.layer3, body.layer4),
    )
    parts = {"backbone.fpn.": "pyramid.", "head.": "fcos."}
    head = {
        new + name.removeprefix(old): tensor
        for old, new in parts.items()
        for name, tensor in tensors.items()
        if name.startswith(old) and not name.startswith(KNOWS_CLASSES)
    }
    preprocessing: Preprocessing = {
        "size": size,
        "resize": size,
        "mode": "squash",
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    named = tuple(zip(("stem", "layer1", "layer2", "layer3", "layer4"), stages, strict=True))
    of_stages = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.body.")}
    backbone = Backbone(named, 2048, preprocessing, state_digest(of_stages | head))
    sides = [-(-size // stride) for stride in STRIDES]
    return Maps(_wrapped(stages, [2, 3, 4]), (512, 1024, 2048), _grids(sides), backbone, head, width=256, depth=4)


def _mapped(backbone: Backbone, name: str) -> Maps:
    """Wrap the stages up to the last map, of which the last one is cut behind it."""
    size = backbone.preprocessing["size"]
    wanted = [-(-size // stride) for stride in STRIDES]
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    stages, found = [stage for _, stage in backbone.stages], list[Tensor]()
    with torch.no_grad():
        for stage in stages[:-1]:
            found.append(stage(found[-1] if found else image))
        if not any(_side(one) == wanted[-1] for one in found):
            stages[-1] = _cut_behind_map(stages[-1], found[-1], wanted[-1])
        found.append(stages[-1](found[-1]))
    places = [max((i for i, one in enumerate(found) if _side(one) == side), default=-1) for side in wanted]
    if -1 in places or sorted({*places}) != places:
        sides = ", ".join(dict.fromkeys(str(_side(one)) for one in found if _side(one))) or "none"
        raise InputError(
            f"{name} has no maps for a pyramid: their sides are {sides}, and {', '.join(map(str, wanted))} are needed.",
            "Use a convolutional network, such as timm/tf_efficientnet_lite0 or torchvision/resnet50.",
        )
    channels = tuple(found[place].shape[1] for place in places)
    return Maps(_wrapped(stages[: places[-1] + 1], places), channels, _grids(wanted), backbone)


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


def _side(value: Tensor) -> int:
    """Side of a square map [B, C, S, S]; 0 of anything else."""
    return int(value.shape[2]) if value.ndim == 4 and value.shape[2] == value.shape[3] else 0  # noqa: PLR2004 - a map


def _cut_behind_map(stage: nn.Module, value: Tensor, side: int) -> nn.Module:
    """The last stage without its pooling, where it makes the map of that side itself; else as it is."""
    if not isinstance(stage, fx.GraphModule):
        return stage
    last: list[fx.Node] = []

    class Noted(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever the code computes
            result = super().run_node(n)
            if isinstance(result, Tensor) and _side(result) == side and n.op not in {"placeholder", "output"}:
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
