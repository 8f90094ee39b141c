"""A pyramid on plain vision transformers."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from components.core.networks.detection.detectors import Maps, build_maps, detection_head, rebuild_maps
from components.core.networks.detection.simple_pyramids import SimplePyramid, doublings, sides
from components.core.networks.network import Network, set_thawed, set_training
from components.core.registry.serving import export_network
from components.core.targets.detection import Detection

SIDE = 64
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16}
CONFIGS = {
    "vit": lambda: transformers.ViTConfig(**SMALL, intermediate_size=32),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersConfig(**SMALL, mlp_ratio=2),
}


def flow() -> dict[str, Tensor]:
    pictures = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return {"latest": pictures, "size": torch.tensor([[90, 70], [50, 60]])}


@pytest.fixture(scope="module", params=["timm/test_vit", "vit", "dinov2_with_registers"])
def maps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Maps:
    torch.manual_seed(0)
    if request.param.startswith("timm/"):
        return build_maps(request.param, "none", SIDE)
    folder = tmp_path_factory.mktemp(request.param)
    transformers.AutoModel.from_config(CONFIGS[request.param]()).save_pretrained(folder)
    return build_maps("hf/any", str(folder), SIDE)


def test_a_plain_transformer_is_trained_as_a_detector(maps: Maps) -> None:
    """Its tokens become one map, of which the head makes five levels; a step reaches head and thawed stage alone."""
    own = Network(maps.stages, detection_head(maps, 64, 1, 3, 0.0), maps.backbone.preprocessing)
    line = set_thawed(own, 1)
    set_training(own, line)
    kept = own.below(flow(), line)
    assert kept["latest"].ndim == 3
    top = own.below(kept, len(own.stages), start=line)
    assert sorted(top) == ["map0", "size"]
    assert top["map0"].shape[2:] == (4, 4)
    found = own.head(top)
    assert found["cls_logits"].shape == (2, 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1, 3)
    Detection().loss(found, torch.tensor([[[0, 0.1, 0.1, 0.6, 0.7]], [[-1.0] * 5]])).backward()
    assert all(p.grad is not None for p in own.head.parameters())
    assert any(p.grad is not None for p in own.stages[-1].parameters())
    assert all(p.grad is None for stage in own.stages[:-1] for p in stage.parameters())


def test_the_map_holds_the_patches_in_their_places(maps: Maps) -> None:
    """A picture that changes in one corner changes the tokens there most, whatever stands before the patches."""
    own = Network(maps.stages, torch.nn.Identity(), maps.backbone.preprocessing).eval()
    given = flow()
    with torch.no_grad():
        before = own.below(given, len(own.stages))["map0"]
        given["latest"][:, :, 48:, :16] += 3.0  # the last row, the first column
        change = (own.below(given, len(own.stages))["map0"] - before).abs().sum((0, 1))
    assert int(change.argmax()) == 3 * 4


def test_a_checkpoint_fits_the_rebuilt_network(maps: Maps) -> None:
    """The stages are rebuilt from what the checkpoint says."""
    name = "hf/any" if maps.backbone.config else "timm/test_vit"
    again = rebuild_maps(name, maps.backbone.preprocessing, maps.backbone.config)
    for old, new in zip(maps.stages, again.stages, strict=True):
        new.load_state_dict(old.state_dict())
    assert again.grids == maps.grids


@pytest.mark.slow
def test_a_served_detector_takes_batches_of_any_size(maps: Maps, tmp_path: Path) -> None:
    """The graph of a served model answers as the network."""
    own = Network(maps.stages, detection_head(maps, 64, 1, 3, 0.0), maps.backbone.preprocessing).eval()
    export_network(own, flow(), tmp_path / "network.pt2")
    given = {name: tensor[[0, 1, 1]] for name, tensor in flow().items()}
    with torch.no_grad():
        served, expected = torch.export.load(tmp_path / "network.pt2").module()(given), own(given)
    assert all(torch.allclose(served[name], expected[name], atol=1e-5) for name in expected)


@pytest.mark.parametrize(
    ("patch", "expected"), [(8, [28, 14, 7]), (14, [32, 16, 8]), (16, [28, 14, 7]), (32, [28, 14, 7])]
)
def test_levels_are_about_8_16_and_32_pixels(patch: int, expected: list[int]) -> None:
    """Whatever the size of patches, three levels come near the strides of other backbones."""
    side = 224 // patch
    doubled = doublings(224, side)
    assert sides(side, doubled) == expected
    found = SimplePyramid(16, 8, doubled)({"map0": torch.rand(1, 16, side, side)})
    assert [level.shape[2] for level in found.values()][:3] == expected
