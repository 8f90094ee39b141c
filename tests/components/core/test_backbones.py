"""Stages run the very operations of the original network, and leave their inputs alone."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from components.core.backbones import Backbone, build_backbone

QUICK = {  # family: (backbone, image size)
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
CASES = [
    *(pytest.param(case, id=family) for family, case in QUICK.items()),
    *(pytest.param(case, id=family, marks=pytest.mark.slow) for family, case in SLOW.items()),
]


def images(size: int, count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


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
