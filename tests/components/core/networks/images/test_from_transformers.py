"""Image networks of transformers, tiny and random, from folders as `save_pretrained` writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from components.core.activations.spaces import spaces
from components.core.errors import InputError
from components.core.networks.images.image_networks import build_backbone, rebuild_backbone
from components.core.networks.network import Network
from components.core.registry.serving import export_network

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
MAPS: dict[str, Any] = {"hidden_sizes": [8, 16], "num_stages": 2, "image_size": 32}
KINDS: dict[str, Callable[[], Any]] = {
    "vit": lambda: transformers.ViTConfig(**SMALL, intermediate_size=32),
    "deit": lambda: transformers.DeiTConfig(**SMALL, intermediate_size=32),
    "dinov2": lambda: transformers.Dinov2Config(**SMALL, mlp_ratio=2),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersConfig(**SMALL, mlp_ratio=2),
    "convnext": lambda: transformers.ConvNextConfig(**MAPS, depths=[1, 2]),
    "convnextv2": lambda: transformers.ConvNextV2Config(**MAPS, depths=[1, 1]),
}
SAID = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3, "size": {"height": 32, "width": 32}}


def saved(kind: str, folder: Path) -> tuple[Path, nn.Module]:
    """A folder with that network, and the network."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(KINDS[kind]()).eval()
    for parameter in model.parameters():  # what is initialised with zeros would hide a cut that is wrong
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SAID))
    return folder, model


@pytest.mark.parametrize("kind", KINDS)
def test_the_stages_give_the_networks_features(kind: str, tmp_path: Path) -> None:
    """From a folder, staged, the features are those of the network's own forward pass."""
    folder, model = saved(kind, tmp_path)
    backbone = build_backbone("", str(folder), 0)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        value = images
        for _, stage in backbone.stages:
            value = stage(value)
        whole = model(pixel_values=images)
    tokens = whole.last_hidden_state.ndim == 3
    expected = whole.last_hidden_state[:, 0] if tokens else whole.pooler_output
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    assert value.shape == (3, backbone.features)
    assert len(backbone.stages) == (4 if tokens else 3)


def test_preprocessing_is_the_folders(tmp_path: Path) -> None:
    folder, _ = saved("vit", tmp_path)
    said = build_backbone("", str(folder), 0).preprocessing
    assert (said["size"], said["resize"], said["interpolation"], said["mean"]) == (32, 32, "bicubic", [0.5, 0.5, 0.5])


@pytest.mark.parametrize("kind", ["vit", "dinov2", "convnext"])
def test_another_size_is_taken(kind: str, tmp_path: Path) -> None:
    """Position embeddings are resized as the network does it itself."""
    folder, _ = saved(kind, tmp_path)
    backbone = build_backbone("", str(folder), 64)
    value = torch.randn(1, 3, 64, 64)
    for _, stage in backbone.stages:
        value = stage(value)
    assert value.shape == (1, backbone.features)
    assert backbone.preprocessing["size"] == 64


@pytest.mark.parametrize("kind", ["vit", "dinov2", "convnext"])
def test_a_checkpoint_needs_no_folder(kind: str, tmp_path: Path) -> None:
    """What the checkpoint says rebuilds the stages, which take the weights and keep their kept activations."""
    folder, _ = saved(kind, tmp_path)
    built = build_backbone("", str(folder), 0)
    again = rebuild_backbone("timm/anything", built.preprocessing, json.loads(json.dumps(built.config)))
    networks = [Network([s for _, s in one.stages], nn.Identity(), {}) for one in (built, again)]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(networks[0](images), networks[1](images), rtol=0, atol=0)
    assert spaces(networks[0], "float32") == spaces(networks[1], "float32")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "dinov2", "convnext"])
def test_it_is_exported_for_serving(kind: str, tmp_path: Path) -> None:
    """The graph of a served model answers as the network, in batches of any size."""
    folder, _ = saved(kind, tmp_path / "folder")
    built = build_backbone("", str(folder), 0)
    network = Network([s for _, s in built.stages], nn.Linear(built.features, 2), {}).eval()
    export_network(network, torch.randn(2, 3, 32, 32), tmp_path / "network.pt2")
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        served = torch.export.load(tmp_path / "network.pt2").module()(images)
        torch.testing.assert_close(served, network(images), rtol=1e-5, atol=1e-5)


def test_another_kind_of_network_is_refused(tmp_path: Path) -> None:
    """A network that mixes its tokens behind the blocks has other features than its first token."""
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"can't be cut into stages.*Choose a network such as ViT"):
        build_backbone("", str(tmp_path), 0)


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not be loaded"):
        build_backbone("", str(tmp_path), 0)
