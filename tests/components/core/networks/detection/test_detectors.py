"""Detectors: maps of any backbone, a pyramid and a head."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.core.errors import InputError
from components.core.networks.detection.anchors import squares
from components.core.networks.detection.detectors import Maps, build_maps, detection_head, rebuild_maps
from components.core.networks.images.image_networks import Backbone
from components.core.networks.network import Network

SIDE = 64


@pytest.fixture(scope="module", params=["torchvision/resnet18", "timm/tf_efficientnet_lite0"])
def maps(request: pytest.FixtureRequest) -> Maps:
    torch.manual_seed(0)
    return build_maps(request.param, "none", SIDE)


def flow() -> dict[str, Tensor]:
    return {"latest": torch.rand(2, 3, SIDE, SIDE), "size": torch.tensor([[90, 70], [50, 60]])}


def network(maps: Maps, classes: int = 3) -> Network:
    torch.manual_seed(0)
    head = detection_head(maps, 64, 1, classes, 0.0)
    return Network(maps.stages, head, maps.backbone.preprocessing).eval()


def test_the_pyramid_gets_maps_of_three_sizes(maps: Maps) -> None:
    """Whatever the library, the last stage gives maps an 8th, 16th and 32nd as wide, and the picture's size."""
    found = network(maps).below(flow(), len(maps.stages))
    assert sorted(found) == ["map0", "map1", "map2", "size"]
    assert [found[f"map{number}"].shape[2] for number in range(3)] == [8, 4, 2]
    assert [found[f"map{number}"].shape[1] for number in range(3)] == [*maps.channels]


def test_every_line_can_be_the_thaw_line(maps: Maps) -> None:
    """Cut anywhere, the network answers as a whole; above the first map several tensors are kept, each once."""
    whole = network(maps)
    expected, counts = whole(flow()), []
    torch.manual_seed(0)
    given = flow()
    expected = whole(given)
    for line in range(len(maps.stages) + 1):
        kept = whole.below(given, line)
        counts.append(len({tensor.data_ptr() for tensor in kept.values()}))
        assert counts[-1] == len(kept)
        found = whole.above(kept, line)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert counts[0] == 2
    assert counts[-1] == 4


def test_outputs_have_a_row_for_each_place(maps: Maps) -> None:
    """Every place of all five levels has classes, a box and a center."""
    found = network(maps)(flow())
    places = 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "cls_logits": (2, places, 3),
        "bbox_regression": (2, places, 4),
        "bbox_ctrness": (2, places, 1),
        "anchors": (2, places, 4),
        "size": (2, 2),
    }


def test_a_checkpoint_fits_the_rebuilt_network(maps: Maps) -> None:
    """The state of a network loads into one that is rebuilt from its name, and tells no anchors."""
    name = "torchvision/resnet18" if len(maps.stages) == 5 else "timm/tf_efficientnet_lite0"
    state = network(maps).state_dict()
    network(rebuild_maps(name, maps.backbone.preprocessing, {})).load_state_dict(state)
    assert not any("anchors" in key for key in state)


def convnext(folder: Path, stages: int) -> str:
    """A tiny ConvNeXt of transformers, whose first map is a fourth as wide as the picture, and each next one half."""
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(hidden_sizes=[8] * stages, depths=[1] * stages, num_stages=stages, image_size=SIDE)
    ConvNextModel(config).save_pretrained(folder)
    return str(folder)


def test_a_network_of_transformers_ends_with_its_last_map(tmp_path: Path) -> None:
    """The pooling behind the last map is left out there too."""
    found = build_maps("hf/any", convnext(tmp_path, 4), SIDE)
    assert found.channels == (8, 8, 8)
    assert network(found)(flow())["cls_logits"].shape == (2, 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1, 3)


def test_a_network_without_maps_is_refused(tmp_path: Path) -> None:
    """A backbone with neither maps of these sizes nor tokens has nothing for a pyramid, and is told what would do."""
    with pytest.raises(InputError, match="has no maps for a pyramid.*Use a convolutional network"):
        build_maps("hf/any", convnext(tmp_path, 2), SIDE)


def test_a_width_that_norms_can_not_divide_is_refused() -> None:
    """The pyramid's channels are a multiple of 32."""
    with pytest.raises(InputError, match="width=100 can't be used: it is no multiple of 32"):
        detection_head(build_maps("torchvision/resnet18", "none", SIDE), 100, 1, 2, 0.0)


def test_anchors_lie_in_the_middle_of_their_places() -> None:
    """Places of a level tile the picture, row by row."""
    assert squares([2, 1]).tolist() == [
        [0.0, 0.0, 0.5, 0.5],
        [0.5, 0.0, 1.0, 0.5],
        [0.0, 0.5, 0.5, 1.0],
        [0.5, 0.5, 1.0, 1.0],
        [0.0, 0.0, 1.0, 1.0],
    ]


def test_a_head_leaves_its_maps_alone() -> None:
    """The head does not write into maps, which may be kept."""
    torch.manual_seed(0)
    backbone = Backbone((), 0, {"size": 32, "resize": 32, "mode": "squash"}, "")  # type: ignore[typeddict-item]  # some
    head = detection_head(Maps((), (4, 4, 4), (4, 2, 1, 1, 1), backbone), 64, 1, 2, 0.3).train()
    maps = {f"map{number}": torch.randn(2, 4, side, side) for number, side in enumerate((4, 2, 1))}
    before = {name: tensor.clone() for name, tensor in maps.items()}
    head({**maps, "size": torch.tensor([[4, 4], [4, 4]])})
    assert all(torch.equal(maps[name], before[name]) for name in maps)
