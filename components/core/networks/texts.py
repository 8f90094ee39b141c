"""Pretrained text encoders and decoders of transformers as ordered stages: embedding, then layer by layer.

Between stages travel `hidden` float[B, T, H] and the `mask` bool[B, T]; the last one also pools, so that thawing it
trains a layer. Every cut is checked against the whole network. Nothing is unpickled, and no code of a hub is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import InputError
from components.core.networks import transformers_hub
from components.core.networks.weights import SkipInit, state_digest

BUCKET = 32  # tokens; finer ones compute less, in more and smaller calls
WORTH = 0.9  # share of the padded batch below which it is divided
TOLERANCE = 1e-4  # of stages against the whole; they agree to the last bit wherever it was tried

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Encoder:
    """A network without its own head, and its tokenizer."""

    stages: tuple[nn.Module, ...]  # from ids[B, T] and mask[B, T] to [B, features]
    features: int
    positions: int  # tokens that it takes at most
    marks: int  # of them those that stand around every text
    tokenizer: str  # the content of tokenizer.json
    pad: int
    config: dict[str, Any]  # what `rebuild_stages` takes
    weights_digest: str


class Embedding(nn.Module):
    """Tokens and their positions as vectors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name in ("embeddings", "embeddings_project", "wte", "wpe", "drop"):
            if hasattr(model, name):
                self.add_module(name, getattr(model, name))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`ids` int64[B, T] and `mask` to `hidden` and `mask`."""
        ids = batch["ids"]
        part = dict(self.named_children())
        if "embeddings" in part:  # as BERT and its kin name it
            hidden = part["embeddings"](ids)
            hidden = part["embeddings_project"](hidden) if "embeddings_project" in part else hidden
        else:  # as GPT-2
            places = torch.arange(ids.shape[1], device=ids.device)
            hidden = part["drop"](part["wte"](ids) + part["wpe"](places))
        return {"hidden": hidden, "mask": batch["mask"]}


class Layer(nn.Module):
    """One layer; the last one norms and pools too."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None, pooling: str, *, causal: bool) -> None:
        super().__init__()
        self.layer, self.norm, self.pooling, self.causal = layer, norm, pooling, causal

    def forward(self, batch: Batch) -> Tensor | dict[str, Tensor]:
        """`hidden` and `mask` to the same, with zeros where no token is, or to features[B, H] where it pools."""
        hidden, mask = batch["hidden"], batch["mask"]
        groups = _groups(mask)
        if not groups:
            given = self._together(hidden, mask)
        else:  # rows of about one length together: padding costs as much as tokens do
            parts = [self._together(hidden[rows, :width], mask[rows, :width]) for rows, width in groups]
            if not self.pooling:
                parts = [functional.pad(part, (0, 0, 0, mask.shape[1] - part.shape[1])) for part in parts]
            given = torch.cat(parts)[torch.cat([rows for rows, _ in groups]).argsort()]
        return given if self.pooling else {"hidden": given, "mask": mask}

    def _together(self, hidden: Tensor, mask: Tensor) -> Tensor:
        seen = mask[:, None, None, :]
        if self.causal:
            seen = seen & torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
        bias = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
        given = self.layer(hidden, attention_mask=bias.masked_fill(~seen, torch.finfo(hidden.dtype).min))
        hidden = given if isinstance(given, Tensor) else given[0]
        hidden = hidden if self.norm is None else self.norm(hidden)
        return pooled(hidden, mask, self.pooling) if self.pooling else hidden.masked_fill(~mask[:, :, None], 0)

    def extra_repr(self) -> str:
        """Stored activations are addressed by it."""
        return f"causal={self.causal}, pooling={self.pooling!r}"


def _groups(mask: Tensor) -> list[tuple[Tensor, int]]:
    """Rows of a batch by the multiple of 32 that holds their tokens; none where all rows go together.

    They do on a GPU, which would wait for the lengths, in an exported graph, which can't ask for them, and where bits
    count: kernels differ by the size of the batch.
    """
    if mask.device.type != "cpu" or _traced() or torch.are_deterministic_algorithms_enabled():
        return []
    widths = (mask.sum(1).add(BUCKET - 1) // BUCKET * BUCKET).clamp(max=mask.shape[1])
    if int(widths.sum()) > WORTH * mask.numel():
        return []
    return [((widths == width).nonzero()[:, 0], width) for width in sorted({*widths.tolist()})]


def _traced() -> bool:
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]  # torch leaves it untyped
    return tracing or torch.compiler.is_compiling() or torch.compiler.is_exporting()


def pooled(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Features [B, H] of `hidden` [B, T, H]: the `mean` of the tokens, the first one's (`cls`), or the `last` one's."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last = mask.sum(1, keepdim=True).sub(1)[:, :, None].expand(-1, -1, hidden.shape[2])
        return hidden.gather(1, last).squeeze(1)
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def build_encoder(backbone: str, weights: str, pooling: str) -> Encoder:
    """A pretrained network, cut into stages and checked against the whole.

    Args:
        backbone: hf/NAME, of the hub or its local cache.
        weights: default (those of that name; for the default backbone the packaged ones where they are installed), a
            FOLDER or s3://BUCKET/PREFIX with config.json, tokenizer and weights, package:all-minilm-l6-v2,
            FILE.safetensors, or none (random).
        pooling: mean, cls, last, or auto: last for decoders, else mean.

    Raises:
        InputError: The network can't be had, is of another kind, or its weights don't fit.
    """
    with transformers_hub.folder(backbone, weights) as place:
        what = backbone if place == backbone.removeprefix("hf/") else weights
        config, tokenizer = _described(place, what)
        model = transformers_hub.load_model(place, config, weights, what)
    stages, causal = _cut(model, pooling, what)
    facts = {"encoder": transformers_hub.plain(config), "causal": causal, "pooling": stages[-1].pooling}
    state = {f"{i}.{key}": value for i, stage in enumerate(stages) for key, value in stage.state_dict().items()}
    pads = (tokenizer.pad_token_id, getattr(config, "pad_token_id", None), tokenizer.eos_token_id, 0)
    return Encoder(
        stages=tuple(stages),
        features=config.hidden_size,
        positions=_positions(model, config, tokenizer),
        marks=int(tokenizer.num_special_tokens_to_add(pair=False)),
        tokenizer=tokenizer.backend_tokenizer.to_str(),
        pad=next(int(number) for number in pads if number is not None),
        config=facts,
        weights_digest=state_digest(state),
    )


def rebuild_stages(facts: Mapping[str, Any]) -> tuple[tuple[nn.Module, ...], int]:
    """The stages that `config` of an `Encoder` describes, with random weights, and their number of features."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**facts["encoder"])
    with SkipInit():
        model = transformers_hub.from_config(config)
    return tuple(_stages(model, facts["pooling"], causal=facts["causal"])), config.hidden_size


def _described(place: str, what: str) -> tuple[Any, Any]:
    """Configuration and tokenizer."""
    transformers_hub.quiet()
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, use_fast=True)
    except Exception as error:  # whatever the hub, its client or a damaged file raises
        raise transformers_hub.cannot_load(what, error) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InputError(f"The tokenizer of {what} has no tokenizer.json form.", "Choose another --backbone.")
    return config, tokenizer


def _positions(model: nn.Module, config: Any, tokenizer: Any) -> int:  # noqa: ANN401 - as above
    found = int(config.max_position_embeddings)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)  # RoBERTa counts positions from behind it
    return min(found - (0 if padding is None else padding + 1), int(tokenizer.model_max_length))


def _cut(model: nn.Module, pooling: str, what: str) -> tuple[list[Any], bool]:
    """The stages that give what the whole network gives, and whether they have to be told not to look ahead.

    `auto` pools by what the network does: where no token sees those behind it, the last one has seen all.
    """
    model.eval()
    words = cast("Any", model).get_input_embeddings().num_embeddings
    ids = torch.randint(0, words, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) < torch.tensor([[12], [7], [3]])
    ids[~mask] = getattr(model.config, "pad_token_id", 0) or 0
    reason = ""
    try:
        with torch.no_grad():
            whole = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            for causal in (False, True):
                given: Any = {"ids": ids, "mask": mask}
                for stage in _stages(model, "", causal=causal):
                    given = stage(given)
                if torch.allclose(given["hidden"][mask], whole[mask], rtol=0, atol=TOLERANCE):
                    changed = ids.index_put((torch.tensor(0), torch.tensor(11)), (ids[0, 11] + 1) % words)
                    other = model(input_ids=changed, attention_mask=mask.long()).last_hidden_state
                    decodes = torch.equal(other[0, :11], whole[0, :11])
                    chosen = ("last" if decodes else "mean") if pooling == "auto" else pooling
                    return _stages(model, chosen, causal=causal), causal
    except Exception as error:  # noqa: BLE001 - foreign code on a network that it was not made for
        reason = f" ({type(error).__name__})"
    raise InputError(
        f"{what} can't be cut into stages{reason}.", "Choose an encoder such as BERT or RoBERTa, or GPT-2."
    )


def _stages(model: nn.Module, pooling: str, *, causal: bool) -> list[Any]:
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    norm = getattr(model, "ln_f", None)
    last = len(layers) - 1
    ends = [(norm, pooling) if number == last else (None, "") for number in range(len(layers))]
    made = [Layer(layer, *end, causal=causal) for layer, end in zip(layers, ends, strict=True)]
    return [Embedding(model), *made]
