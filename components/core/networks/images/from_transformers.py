"""Image networks of transformers as ordered stages: ViT, DeiT, DINOv2, ConvNeXt and their kin.

What an auto class loads is cut into its embedding and the blocks of its list; the last one norms and pools too. Every
cut is checked against the whole network.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from components.core.errors import InputError
from components.core.networks import transformers_hub
from components.core.networks.weights import SkipInit

if TYPE_CHECKING:
    from components.core.inference.images import Preprocessing

Stages = tuple[tuple[str, nn.Module], ...]
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
_NORMS = ("layernorm", "norm")  # as the networks name the one behind their last block


class Embedding(nn.Module):
    """Pictures as patches, for networks whose size is fixed with position embeddings for their own."""

    def __init__(self, embeddings: nn.Module, *, resized: bool) -> None:
        super().__init__()
        self.embeddings, self.resized = embeddings, resized

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, size, size] to tokens [B, T, H] or maps [B, H, size / p, size / p]."""
        options = {"interpolate_pos_encoding": True} if self.resized else {}
        hidden: Tensor = self.embeddings(images, **options)
        return hidden

    def extra_repr(self) -> str:
        """Stored activations are addressed by it."""
        return f"resized={self.resized}"


class Block(nn.Module):
    """One block of the network's list; the last one, which has a norm, norms and pools."""

    def __init__(self, block: nn.Module, norm: nn.Module | None, *, pools: bool = True) -> None:
        super().__init__()
        self.block, self.norm, self.pools = block, norm, pools

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens or maps to the same, or to features [B, H]: the first token's, or the mean over a map."""
        given = self.block(hidden)
        hidden = given if isinstance(given, Tensor) else given[0]
        if self.norm is None:
            return hidden
        tokens = hidden.ndim == 3  # noqa: PLR2004 - batch, tokens, features
        if not self.pools:
            return self.norm(hidden) if tokens else hidden
        features: Tensor = self.norm(hidden)[:, 0] if tokens else self.norm(hidden.mean((-2, -1)))
        return features

    def extra_repr(self) -> str:
        """Stored activations are addressed by it."""
        return "" if self.pools else "pools=False"


def unpooled(last: Block) -> Block:
    """The last block without its pooling: it gives tokens, with their norm, or a map."""
    return Block(last.block, last.norm, pools=False)


def build(backbone: str, weights: str, image_size: int) -> tuple[Stages, int, "Preprocessing", dict[str, Any]]:
    """Stages, features, preprocessing, and what `rebuild` takes.

    Args:
        backbone: hf/NAME, of the hub or its local cache.
        weights: default, a FOLDER or s3://BUCKET/PREFIX with config.json and weights, FILE.safetensors, or none.
        image_size: Side of the images in pixels; 0: what the network was made for.

    Raises:
        InputError: The network can't be had, is of another kind, or its weights don't fit.
    """
    transformers_hub.quiet()
    from transformers import AutoConfig

    with transformers_hub.folder(backbone, weights) as place:
        what = backbone if place == backbone.removeprefix("hf/") else weights
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        except Exception as error:  # whatever the hub, its client or a damaged file raises
            raise transformers_hub.cannot_load(what, error) from error
        preprocessing = _preprocessing(_described(place), config, image_size)
        model = transformers_hub.load_model(place, config, weights, what)
    stages, features = _cut(model, preprocessing["size"], what)
    return stages, features, preprocessing, {"transformers": transformers_hub.plain(config)}


def rebuild(facts: Mapping[str, Any], size: int) -> tuple[Stages, int]:
    """The stages that `build` described, with random weights, and their number of features."""
    from transformers import AutoConfig

    with SkipInit():
        model = transformers_hub.from_config(AutoConfig.for_model(**facts["transformers"]))
    return _cut(model, size, "the checkpoint's network")


def _described(place: str) -> dict[str, Any]:
    """Read preprocessor_config.json; nothing if there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(place)
    except OSError:
        return {}
    return dict(found)


def _preprocessing(said: Mapping[str, Any], config: Any, image_size: int) -> "Preprocessing":  # noqa: ANN401 - transformers' own
    """Preprocessing with which the weights were evaluated; scaled in proportion for other image sizes."""
    resized, cropped = (_side(said.get(name)) for name in ("size", "crop_size"))
    native = (cropped if said.get("do_center_crop") else resized) or getattr(config, "image_size", 224)
    native = native[0] if isinstance(native, list | tuple) else native
    size = image_size or native
    scale = resized / native if cropped and resized and said.get("do_center_crop") else 1 / said.get("crop_pct", 1.0)
    return {
        "size": size,
        "resize": round(size * scale),
        "mode": "crop",
        "mean": list(said.get("image_mean", (0.485, 0.456, 0.406))),
        "std": list(said.get("image_std", (0.229, 0.224, 0.225))),
        "interpolation": _INTERPOLATIONS.get(said.get("resample", 2), "bilinear"),
    }


def _side(size: Any) -> int:  # noqa: ANN401 - a number or a dict, as the years had it
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return int(size or 0)


def _cut(model: nn.Module, size: int, what: str) -> tuple[Stages, int]:
    """Stages that give the features of the whole network, and how many these are."""
    model.eval()
    image, reason = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)), ""
    try:
        made = _stages(model, size)
        with torch.no_grad():
            whole = model(pixel_values=image, **_resizing(model, size))
            tokens = whole.last_hidden_state.ndim == 3  # noqa: PLR2004 - batch, tokens, features
            expected = whole.last_hidden_state[:, 0] if tokens else whole.pooler_output
            value = image
            for _, stage in made:
                value = stage(value)
        if value.shape == expected.shape and torch.allclose(value, expected, rtol=0, atol=1e-5):
            return made, value.shape[1]
    except Exception as error:  # noqa: BLE001 - foreign code on a network that it was not made for
        reason = f" ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
    raise InputError(
        f"{what} can't be cut into stages of images of {size} x {size} pixels{reason}.",
        "Choose a network such as ViT, DINOv2 or ConvNeXt, or leave out --image-size.",
    )


def _stages(model: nn.Module, size: int) -> Stages:
    name, blocks = next((name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList))
    norm = next(getattr(model, name) for name in _NORMS if hasattr(model, name))
    embeddings = cast("nn.Module", model.embeddings)
    last = len(blocks) - 1
    made = [(f"{name}.{i}", Block(block, norm if i == last else None)) for i, block in enumerate(blocks)]
    return (("embeddings", Embedding(embeddings, resized=bool(_resizing(model, size)))), *made)


def _resizing(model: nn.Module, size: int) -> dict[str, bool]:
    """The option that lets a network take images of another size than it was made for, where it needs one."""
    native = getattr(model.config, "image_size", size)
    takes = "interpolate_pos_encoding" in inspect.signature(cast("Any", model.embeddings).forward).parameters
    return {"interpolate_pos_encoding": True} if takes and native != size else {}
