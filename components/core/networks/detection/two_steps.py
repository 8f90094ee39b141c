"""The two steps of Faster R-CNN (Ren et al. 2015): boxes that may hold an object, then a class and a box for each.

The first step picks a fixed number of boxes without looking at labels, in training as in use, so they are among the
outputs and the loss of both steps is a function of outputs and labels, as for every other network here. Torchvision
draws up to 512 of 2,000 with the labels at hand, half of them near an object, and adds the objects themselves.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, roi_align

PROPOSALS = 128  # boxes of a picture that the second step looks at; an answer has 100 at most
CANDIDATES = 256  # boxes of each level that compete
OVERLAP = 0.7  # IoU with a likelier box of its level from which a box is dropped
FIRST_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of center and size of a box
SIDE = 7  # places of a pooled box in a row
SAMPLES = 2  # points in a row that a place is the mean of
TYPICAL, TYPICAL_LEVEL = 224, 4  # pixels of a box that is pooled from the level of 2**4 pixels (Lin et al. 2017)


class Outputs(TypedDict):
    """Outputs for P proposals and A anchors; those of the proposals are named as SSD's."""

    cls_logits: Tensor  # [B, P, C]
    background: Tensor  # [B, P, 1]
    bbox_regression: Tensor  # [B, P, 4]
    anchors: Tensor  # proposals as shares of the sides, [B, P, 4]
    objectness: Tensor  # [B, A, 1]
    proposal_regression: Tensor  # [B, A, 4]
    first_anchors: Tensor  # [B, A, 4]


class TwoSteps(nn.Module):
    """A predictor that looks at proposals.

    Args:
        first: From maps of all levels to lists of scores [B, K, H, W] and moves [B, 4 K, H, W] of K anchors a place.
        second: From pooled boxes [N, channels, 7, 7] to vectors [N, width].
        width: Of these vectors.
        classes: To tell apart.
        anchors: Of the first step, as shares of the sides, float[A, 4].
        strides: Pixels of a place of the levels that boxes are pooled from, each half or all of the next one.
        size: Side of the picture in pixels.
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        width: int,
        classes: int,
        anchors: Tensor,
        strides: Sequence[int],
        size: int,
    ) -> None:
        super().__init__()
        self.first, self.second, self.strides, self.size = first, second, tuple(strides), size
        self.classifier, self.regressor = nn.Linear(width, classes + 1), nn.Linear(width, 4)
        self.anchors: Tensor
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, levels: list[Tensor]) -> Outputs:
        """Outputs of both steps."""
        scores, moves = self.first(levels)
        objectness = [one.permute(0, 2, 3, 1).flatten(1) for one in scores]
        # a place's anchors come after each other: [B, 4 K, H, W] to [B, H W K, 4]
        regression = [one.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for one in moves]
        chosen = self._proposals([one.detach() for one in objectness], [one.detach() for one in regression])
        vectors = self.second(self._pooled(levels, chosen)).view(-1, chosen.shape[1], self.classifier.in_features)
        logits = self.classifier(vectors)
        return {
            "cls_logits": logits[..., 1:],
            "background": logits[..., :1],
            "bbox_regression": self.regressor(vectors),
            "anchors": chosen,
            "objectness": torch.cat(objectness, dim=1)[..., None],
            "proposal_regression": torch.cat(regression, dim=1),
            "first_anchors": self.anchors.expand(chosen.shape[0], -1, -1),
        }

    def _proposals(self, objectness: Sequence[Tensor], regression: Sequence[Tensor]) -> Tensor:
        """The likeliest boxes [B, P, 4] of all levels, as shares of the sides.

        A box goes if a likelier one of its level overlaps it, even one that goes itself (Fast NMS, Bolya et al. 2019):
        unlike greedy suppression this has a fixed shape, so the graph of a served model holds it for any batch.
        """
        coder, boxes, ranks = BoxCoder(FIRST_WEIGHTS), list[Tensor](), list[Tensor]()
        anchors = torch.split(self.anchors, [one.shape[1] for one in objectness])
        for scores, moves, places in zip(objectness, regression, anchors, strict=True):
            best = scores.float().topk(min(CANDIDATES, scores.shape[1]), dim=1)
            some = moves.float().gather(1, best.indices[..., None].expand(-1, -1, 4))
            decoded = coder.decode_single(some.flatten(0, 1), places[best.indices].flatten(0, 1))
            own = decoded.view(-1, best.values.shape[1], 4).clamp(0, 1)
            overlap = box_iou(own, own).nan_to_num().triu(1).amax(1)  # with likelier ones; of no area: none
            boxes.append(own)
            ranks.append(best.values - torch.where(overlap > OVERLAP, 1e4, 0.0))
        rank = torch.cat(ranks, dim=1)
        order = rank.topk(min(PROPOSALS, rank.shape[1]), dim=1).indices
        return torch.cat(boxes, dim=1).gather(1, order[..., None].expand(-1, -1, 4))

    def _pooled(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] out of the maps, each from the level of its size: [B P, channels, 7, 7]."""
        pixels = boxes.flatten(0, 1) * self.size
        rows = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(-1, boxes.shape[1]).reshape(-1, 1)
        rois = torch.cat([rows.to(pixels.dtype), pixels], dim=1)
        sides = (pixels[:, 2:] - pixels[:, :2]).prod(1).sqrt()
        lowest, highest = (round(math.log2(stride)) for stride in (self.strides[0], self.strides[-1]))
        wanted = (TYPICAL_LEVEL + torch.log2(sides / TYPICAL) + 1e-6).floor().clamp(lowest, highest) - lowest
        found: Tensor = roi_align(levels[0], rois, SIDE, 1 / self.strides[0], SAMPLES)
        for number in range(1, highest - lowest + 1):
            # of all boxes, since the number of those of a level is unknown to a graph
            some = roi_align(levels[number], rois, SIDE, 1 / self.strides[number], SAMPLES)
            found = torch.where((wanted == number)[:, None, None, None], some, found)
        return found
