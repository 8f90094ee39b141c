"""Networks over sequences of items as stages: SASRec (Kang & McAuley 2018) and GRU4Rec (Hidasi et al. 2016).

What flows between the stages is `items` int64[B, S], the whole history, and `hidden` [B, T, d] of its last T steps.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.inference.recommendation import FIRST, PAD

Batch: TypeAlias = Mapping[str, Tensor]


class Sizes(TypedDict):
    """The shape of a network, as JSON values."""

    width: int  # of a vector
    blocks: int
    heads: int  # of attention
    length: int  # steps that the network sees
    block_dropout: float
    embedding_dropout: float
    item_dropout: float  # of whole items


class ItemFeatures(NamedTuple):
    """Features of items, such as a film's genres."""

    of: Tensor  # int64[items, K], numbers from 1, padded with 0
    number: int  # of different features


class Embedding(nn.Module):
    """A vector for each item, and the marks of nothing and of the beginning.

    An item's vector is the sum of one of its own and of the mean of its features' vectors (as in LightFM, Kula 2015),
    so that an item without interactions has a place near those that are like it.
    """

    features: nn.Parameter | None
    of: Tensor

    def __init__(self, items: int, sizes: Sizes, features: ItemFeatures | None = None) -> None:
        super().__init__()
        width, self.length, self.item_dropout = sizes["width"], sizes["length"], sizes["item_dropout"]
        self.marks = nn.Parameter(torch.zeros(FIRST, width))
        self.items = nn.Parameter(torch.empty(items, width).normal_(std=0.02))
        self.features = None
        if features is not None:
            self.features = nn.Parameter(torch.empty(features.number, width).normal_(std=0.02))
            self.register_buffer("of", features.of)
        self.dropout = nn.Dropout(sizes["embedding_dropout"])

    def table(self) -> Tensor:
        """The vectors of all items [items, d]."""
        if self.features is None:
            return self.items
        padded = functional.pad(self.features, (0, 0, 1, 0))
        return self.items + functional.embedding_bag(self.of, padded, mode="mean", padding_idx=0)

    def forward(self, items: Tensor) -> dict[str, Tensor]:
        """Histories int64[B, S] with their last T steps as vectors."""
        table, last = torch.cat([self.marks, self.table()]), items[:, -self.length :]
        hidden = table[last] * table.shape[1] ** 0.5
        if self.training and self.item_dropout:
            hidden = hidden * (torch.rand(last.shape, device=last.device) >= self.item_dropout)[:, :, None]
        return {"items": items, "hidden": self.dropout(hidden)}


class Attention(nn.Module):
    """A block of SASRec with norms before its parts: steps attend to earlier ones, then a feed-forward net.

    It knows how far back a step lies, by a learned bias for each distance (Raffel et al. 2020), not where it stands:
    of a few hundred users that is learned sooner.
    """

    def __init__(self, sizes: Sizes, *, last: bool) -> None:
        super().__init__()
        width, self.heads, self.rate = sizes["width"], sizes["heads"], sizes["block_dropout"]
        self.distances = nn.Parameter(torch.zeros(sizes["heads"], sizes["length"]))
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(self.rate)
        self.after = nn.LayerNorm(width) if last else nn.Identity()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all positions."""
        items, x = batch["items"], batch["hidden"]
        rows, steps, width = x.shape
        q, k, v = (
            self.inputs(self.before(x)).view(rows, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        earlier = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
        itself = torch.eye(steps, dtype=torch.bool, device=x.device)  # attention over nothing is not a number
        seen = earlier & (items[:, None, -steps:] != PAD) | itself
        places = torch.arange(steps, device=x.device)
        bias = self.distances[:, (places[:, None] - places).clamp(min=0)].to(x.dtype)
        attended = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias.masked_fill(~seen[:, None], -torch.inf),
            dropout_p=self.rate if self.training else 0.0,
        )
        x = x + self.dropout(self.output(attended.transpose(1, 2).reshape(rows, steps, width)))
        x = x + self.dropout(self.narrow(self.dropout(functional.gelu(self.wide(self.between(x))))))
        return {"items": items, "hidden": self.after(x)}


class Recurrent(nn.Module):
    """A layer of GRU4Rec; what stands before the beginning is zero."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.weight_ih, self.weight_hh = (nn.Parameter(torch.empty(3 * width, width)) for _ in range(2))
        self.bias_ih, self.bias_hh = (nn.Parameter(torch.empty(3 * width)) for _ in range(2))
        for parameter in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One layer over all steps."""
        items, x = batch["items"], batch["hidden"]
        known = x * (items[:, -x.shape[1] :, None] != PAD)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)  # nn.GRU would lay them out again
        begin = x.new_zeros(1, x.shape[0], x.shape[2])
        steps, _ = torch.gru(known, begin, weights, True, 1, 0.0, self.training, False, True)
        return {"items": items, "hidden": self.dropout(steps)}


class Scores(nn.Module):
    """Scores of all items: in training of the last steps [B, T, items], all unless told, else of the next one alone.

    In answers -inf stands for what the history holds. An item is scored by its vector of the embedding, and by what
    this head adds to it. Where the embedding is trained, it alone learns (tied weights, Press & Wolf 2017); where it is
    frozen, the head learns, and weight decay draws it to the embedding.
    """

    def __init__(self, embedding: Embedding, dropout: float, asked: int = 0) -> None:
        super().__init__()
        self.asked = asked  # steps that training asks for: those of all take most of the memory
        self._embedding = (embedding,)  # in a tuple: a stage is no part of the head
        self.dropout = nn.Dropout(dropout)
        self.added = nn.Parameter(torch.zeros_like(embedding.items))
        self.bias = nn.Parameter(torch.zeros(len(embedding.items)))

    def forward(self, batch: Batch) -> Tensor:
        """Score all items."""
        table = self._embedding[0].table()
        added = self.added.detach() if self.training and table.requires_grad else self.added
        hidden = self.dropout(batch["hidden"][:, -self.asked :] if self.training else batch["hidden"][:, -1])
        scores = functional.linear(hidden, table + added, self.bias)
        if self.training:
            return scores
        return functional.pad(scores, (FIRST, 0)).scatter(1, batch["items"], -torch.inf)[:, FIRST:]


def build_stages(
    kind: str, items: int, sizes: Sizes, features: ItemFeatures | None = None
) -> tuple[Embedding, list[nn.Module]]:
    """The embedding, and the blocks above it; `kind` is sasrec or gru4rec."""
    count, embedding = sizes["blocks"], Embedding(items, sizes, features)
    if kind == "gru4rec":
        return embedding, [Recurrent(sizes["width"], sizes["block_dropout"]) for _ in range(count)]
    return embedding, [Attention(sizes, last=number == count - 1) for number in range(count)]
