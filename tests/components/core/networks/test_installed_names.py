"""Names of networks and weights that are known without importing the libraries."""

from pathlib import Path

import pytest
import timm
import torchvision
from timm.models._registry import _model_entrypoints, get_arch_pretrained_cfgs

from components.core.errors import InputError
from components.core.networks import installed_names
from components.core.networks.installed_names import check_network, networks_of, weights_of


def test_networks_are_those_of_the_libraries() -> None:
    """The sources name every image network that the libraries list, and no other."""
    assert set(networks_of("timm")) == set(timm.list_models())
    assert set(networks_of("torchvision")) == set(torchvision.models.list_models(module=torchvision.models))


def test_no_weights_are_missing() -> None:
    """What a library publishes for a network is among what its source names, or the source names nothing for it."""
    for name in networks_of("timm"):
        tags = {full.partition(".")[2] for full in get_arch_pretrained_cfgs(name) if "." in full}
        named = weights_of("timm").get(name, [])
        assert not named or tags <= set(named), name
    for name in networks_of("torchvision"):
        members = torchvision.models.get_model_weights(name).__members__
        assert weights_of("torchvision")[name] == [member for member in members if member != "DEFAULT"]


@pytest.mark.parametrize("backbone", ["timm/efficientnet", "torchvision/resnet", "timm/", "torchvision/"])
def test_words_that_name_no_network_are_reported(backbone: str) -> None:
    """A family's name and an empty one are no networks, although the sources are full of the first."""
    with pytest.raises(InputError, match="has no network"):
        check_network("pictures", backbone, "default", here=False)


def test_older_names_of_networks_pass() -> None:
    """Names that timm only forwards are not taken for typos."""
    older = sorted(set(_model_entrypoints) - set(networks_of("timm")))
    assert len(older) > 100
    for name in older[::20]:
        check_network("pictures", f"timm/{name}", "default")


@pytest.mark.parametrize(
    ("kind", "backbone", "weights", "sentence"),
    [
        ("pictures", "timm/resnet18x", "default", "timm has no network 'resnet18x'. Did you mean resnet18, "),
        ("pictures", "timm/resnet18.a1_in1", "default", "timm/resnet18 has no weights 'a1_in1'.*a1_in1k"),
        ("pictures", "", "ra2_in1k", "timm/tf_efficientnet_lite0 has no weights 'ra2_in1k'.*in1k"),
        ("pictures", "torchvision/resnet5", "none", "torchvision has no network 'resnet5'. Did you mean resnet5"),
        ("pictures", "torchvision/resnet18", "IMAGENET1K_V9", "no weights 'IMAGENET1K_V9'.*IMAGENET1K_V1"),
        ("pictures", "resnet18", "default", "There is no backbone 'resnet18'"),
        ("pictures", "", "package:efficientnet", "no packaged weights package:efficientnet.*efficientnet-lite0"),
        ("pictures", "", "mine.bin", "have no known suffix"),
        ("pictures", "hf/google/vit", "mine", "There are no weights 'mine' of hf/google/vit"),
        ("texts", "bert-base-uncased", "default", "is not a network of the Hugging Face hub"),
        ("texts", "", "package:minilm", "There are no weights 'package:minilm'"),
        ("sounds", "speaker", "default", "speaker is not a network of the Hugging Face hub"),
        ("sounds", "", "mine", "have no known suffix"),
    ],
)
@pytest.mark.parametrize("here", [True, False])
def test_a_typo_is_an_error(kind: str, backbone: str, weights: str, sentence: str, *, here: bool) -> None:
    """Unknown names are refused with those that are near, on this machine and for pods."""
    with pytest.raises(InputError, match=sentence):
        check_network(kind, backbone, weights, here=here)


@pytest.mark.parametrize(
    ("kind", "backbone", "weights"),
    [("pictures", "", "no.pth"), ("texts", "", "no.safetensors"), ("sounds", "", "no.pt"), ("texts", "hf/x", "no.pth")],
)
def test_a_missing_file_is_an_error_here_alone(kind: str, backbone: str, weights: str) -> None:
    """A file of weights that is not on this machine is refused, but pods may have it."""
    check_network(kind, backbone, weights, here=False)
    with pytest.raises(InputError, match=f"The weights {weights} do not exist"):
        check_network(kind, backbone, weights)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("pictures", "package:efficientnet-lite0"),
        ("texts", "package:all-minilm-l6-v2"),
        ("sounds", "package:resemblyzer"),
        ("sounds", "default"),
    ],
)
def test_a_missing_package_is_an_error_here_alone(kind: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packaged weights that are not installed are refused with the command that installs them, but pods may have them.

    The default of sounds has no other weights to fall back on.
    """
    networks_of("timm"), weights_of("timm")  # read before the library is hidden
    monkeypatch.setattr(installed_names.importlib.util, "find_spec", lambda _name: None)
    check_network(kind, "", weights, here=False)
    with pytest.raises(InputError, match=r"are not installed\. Run: pip install"):
        check_network(kind, "", weights)


def test_names_pass_where_the_library_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that only submits runs can't tell what timm has, so it refuses nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(installed_names, "_source_of", lambda _library: "")
        for cached in (networks_of, weights_of):
            cached.cache_clear()
        check_network("pictures", "timm/resnet18x", "a1_in1", here=False)
    for cached in (networks_of, weights_of):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("kind", "backbone", "weights"),
    [
        ("pictures", "", "default"),
        ("pictures", "timm/resnet18.a1_in1k", "default"),
        ("pictures", "timm/resnet18", "a1_in1k"),
        ("pictures", "torchvision/resnet18", "DEFAULT"),
        ("pictures", "timm/resnet18d", "none"),
        ("pictures", "", "s3://bucket/resnet.pth"),
        ("texts", "", "default"),
        ("texts", "hf/any/name", "none"),
        ("texts", "", "s3://bucket/model"),
        ("sounds", "hf/facebook/hubert-base-ls960", "default"),
        ("sounds", "", "none"),
        ("", "my/own", "anything"),
    ],
)
def test_what_is_right_or_unknowable_passes(kind: str, backbone: str, weights: str) -> None:
    """Names that a library has, names of a hub, and everything of a task of the user's own."""
    check_network(kind, backbone, weights)


def test_a_folder_of_a_model_needs_no_name(tmp_path: Path) -> None:
    """A whole model stands for itself, whatever the backbone is called."""
    for kind in ("pictures", "texts", "sounds"):
        check_network(kind, "anything", str(tmp_path))
