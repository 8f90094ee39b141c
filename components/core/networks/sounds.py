"""Pretrained networks on sounds as ordered stages: a front, then layer by layer.

wav2vec2 and HuBERT on samples; Whisper's encoder, AST and the packaged speaker encoder on mel bands. Between stages
travel `hidden` float[B, T, H] and `length` int64[B], the frames that are no padding; the last one also pools, unless
frames are asked for. Every cut is checked against the whole network.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import InputError
from components.core.inference import sounds
from components.core.networks import texts, transformers_hub
from components.core.networks.weights import fit_state, load_state, state_digest
from components.core.weight_sources import SPEAKER, SPEAKER_PACKAGE, check_installed, is_model

TOLERANCE = 1e-4  # of stages against the whole
WAVES = ("wav2vec2", "hubert")
FAMILIES = (*WAVES, "whisper", "audio-spectrogram-transformer")
RATE = 16_000  # hertz that all of them were trained at, unless their own description says otherwise
WINDOW, WINDOW_STEP = 160, 77  # frames that the speaker encoder was trained on; 1.3 of them begin in a second
SPEAKER_SIZE, SPEAKER_LAYERS, BANDS = 256, 3, 40
SPEAKER_FRONT: dict[str, Any] = {
    "front": "mel",
    "sample_rate": RATE,
    "loudness": -30.0,
    "window": 400,
    "fft": 400,
    "hop": 160,
}
SPEAKER_FRONT |= {"bands": BANDS, "scale": "slaney", "edges": "constant", "log": "none"}

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Encoder:
    """A network without its own head."""

    stages: tuple[nn.Module, ...]  # from `sound` and `length` to [B, features], or to `hidden` and `length`
    features: int
    front: Mapping[str, Any]  # preprocessing without `samples`
    native: int  # samples that it was trained on, which it takes at most; 0: no limit
    fixed: bool  # whether it takes no fewer either
    config: dict[str, Any]  # what `rebuild_stages` takes
    weights_digest: str


class WaveFront(nn.Module):
    """Samples to frames by convolutions, and their positions: wav2vec2 and HuBERT."""

    def __init__(self, model: Any, *, masked: bool) -> None:  # noqa: ANN401 - transformers' own
        super().__init__()
        self.convolutions, self.projection = model.feature_extractor, model.feature_projection
        self.positions, self.dropout = model.encoder.pos_conv_embed, model.encoder.dropout
        self.norm = None if model.config.do_stable_layer_norm else model.encoder.layer_norm
        self.sizes = [*zip(model.config.conv_kernel, model.config.conv_stride, strict=True)]
        self.masked = masked

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`sound` [B, N] and `length` to `hidden` and `length`."""
        given = self.projection(self.convolutions(batch["sound"]).transpose(1, 2))
        hidden = given if isinstance(given, Tensor) else given[0]
        length = batch["length"]
        for kernel, stride in self.sizes:
            length = torch.div(length - kernel, stride, rounding_mode="floor") + 1
        length = length.clamp(min=1)
        if self.masked:
            hidden = hidden * valid(hidden, length)[:, :, None].to(hidden.dtype)
        hidden = hidden + self.positions(hidden)
        hidden = hidden if self.norm is None else self.norm(hidden)
        return {"hidden": self.dropout(hidden), "length": length}


class BandFront(nn.Module):
    """Mel bands to frames with their positions: Whisper, of which a shorter sound takes the first positions."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - as above
        super().__init__()
        self.conv1, self.conv2, self.embed_positions = model.conv1, model.conv2, model.embed_positions
        self.dropout = nn.Dropout(model.config.dropout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`sound` [B, T, bands] and `length` to `hidden` [B, T / 2, H] and `length`."""
        hidden = functional.gelu(self.conv1(batch["sound"].transpose(1, 2)))
        hidden = functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        return {"hidden": self.dropout(hidden), "length": (batch["length"] + 1) // 2}


class PatchFront(nn.Module):
    """Mel bands to patches: AST."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - as above
        super().__init__()
        self.embeddings = model.embeddings

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`sound` [B, T, bands] to `hidden` [B, P, H]; `length` passes as it is."""
        return {"hidden": self.embeddings(batch["sound"]), "length": batch["length"]}


class Layer(nn.Module):
    """One layer; the last one norms and pools too."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None, pooling: str, *, masked: bool) -> None:
        super().__init__()
        self.layer, self.norm, self.pooling, self.masked = layer, norm, pooling, masked

    def forward(self, batch: Batch) -> Tensor | dict[str, Tensor]:
        """`hidden` and `length` to the same, or to features [B, H] where it pools."""
        hidden, length = batch["hidden"], batch["length"]
        bias = None
        if self.masked:
            seen = valid(hidden, length)[:, None, None, :]
            bias = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
            bias = bias.masked_fill(~seen, torch.finfo(hidden.dtype).min)
        given = self.layer(hidden, attention_mask=bias)
        hidden = given if isinstance(given, Tensor) else given[0]
        hidden = hidden if self.norm is None else self.norm(hidden)
        return pooled(hidden, length, self.pooling) if self.pooling else {"hidden": hidden, "length": length}

    def extra_repr(self) -> str:
        """Stored activations are addressed by it."""
        return f"pooling={self.pooling!r}, masked={self.masked}"


class Recurrent(nn.Module):
    """One layer of the speaker encoder's LSTM over all frames, or over windows; gives all steps or the last."""

    def __init__(self, inputs: int, *, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.weight_ih = nn.Parameter(torch.empty(4 * SPEAKER_SIZE, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * SPEAKER_SIZE, SPEAKER_SIZE))
        self.bias_ih = nn.Parameter(torch.empty(4 * SPEAKER_SIZE))
        self.bias_hh = nn.Parameter(torch.empty(4 * SPEAKER_SIZE))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(SPEAKER_SIZE**-0.5), SPEAKER_SIZE**-0.5)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`hidden` (of the first layer `sound`) float[B, T, F] or [B, windows, T, F] to the same of `SPEAKER_SIZE`."""
        given = batch["hidden"] if "hidden" in batch else batch["sound"]
        flat = given.reshape(-1, *given.shape[-2:])
        weights: list[Tensor] = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        run = torch.ops.thawline.lstm if torch.compiler.is_exporting() else sounds.lstm
        hidden = run(flat, weights)
        hidden = hidden.reshape(*given.shape[:-1], SPEAKER_SIZE)
        return {"hidden": hidden[..., -1, :] if self.last else hidden, "length": batch["length"]}

    def extra_repr(self) -> str:
        """Stored activations are addressed by it."""
        return f"last={self.last}"


class Windows(nn.Module):
    """Mel frames as windows that overlap, on which the speaker encoder was trained, and its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Recurrent(BANDS)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`sound` [B, T, bands] to `hidden` [B, windows, WINDOW, SPEAKER_SIZE]; `length` becomes windows."""
        sound = batch["sound"]
        count = (
            1 + max(0, sound.shape[1] - WINDOW + WINDOW_STEP - 1) // WINDOW_STEP
        )  # an export truncates, so no -(-a // b)
        missing = WINDOW + (count - 1) * WINDOW_STEP - sound.shape[1]
        starts = WINDOW_STEP * torch.arange(count, device=sound.device)
        places = starts[:, None] + torch.arange(WINDOW, device=sound.device)  # unfold can't be exported to ONNX
        windows = functional.pad(sound, (0, 0, 0, missing))[:, places]
        # a window counts where at least three quarters of it are sound, the first one always
        whole = torch.div(batch["length"] - WINDOW * 3 // 4, WINDOW_STEP, rounding_mode="floor") + 1
        return dict(self.layer({"hidden": windows, "length": whole.clamp(1, count)}))


class Embedding(nn.Module):
    """The end of each window as the unit vector of a speaker; the mean over windows, of length one again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SPEAKER_SIZE, SPEAKER_SIZE)

    def forward(self, batch: Batch) -> Tensor:
        """`hidden` [B, windows, SPEAKER_SIZE] to features [B, SPEAKER_SIZE]."""
        units = functional.normalize(self.linear(batch["hidden"]).relu(), dim=-1)
        return functional.normalize(pooled(units, batch["length"], "mean"), dim=-1)


def valid(hidden: Tensor, length: Tensor) -> Tensor:
    """Return the mask of frames of `hidden` [B, T, H] that are not padding, bool[B, T]."""
    return torch.arange(hidden.shape[1], device=hidden.device) < length[:, None]


def pooled(hidden: Tensor, length: Tensor, pooling: str) -> Tensor:
    """Features [B, H] of `hidden` [B, T, H]: the `mean` of the frames, or of the first two tokens (`tokens`)."""
    if pooling == "tokens":
        return hidden[:, :2].mean(1)
    return texts.pooled(hidden, valid(hidden, length), pooling)


def build_encoder(backbone: str, weights: str, *, frames: bool = False) -> Encoder:
    """A pretrained network, cut into stages and checked against the whole.

    Args:
        backbone: speaker/lstm, or hf/NAME, of the hub or its local cache; not asked where `weights` is a whole model.
        weights: default, a FOLDER or s3://BUCKET/PREFIX with config.json and weights, package:resemblyzer,
            FILE.safetensors, or none (random).
        frames: Give a vector for each frame instead of one for the sound.

    Raises:
        InputError: The network can't be had, is of another kind, or its weights don't fit.
    """
    if weights == SPEAKER_PACKAGE or (backbone == SPEAKER and not is_model(weights)):
        return _speaker(backbone, weights, frames=frames)
    with transformers_hub.folder(backbone, weights) as place:
        what = backbone if place == backbone.removeprefix("hf/") else weights
        config, extractor = _described(place, what)
        model = transformers_hub.load_model(place, config, weights, what)
    model = model.encoder if config.model_type == "whisper" else model  # type: ignore[assignment]  # a module of it
    front = _front(config, extractor)
    masked = config.model_type in WAVES and bool(extractor.get("return_attention_mask"))
    pooling = "tokens" if config.model_type not in (*WAVES, "whisper") else "mean"
    if frames and pooling == "tokens":
        raise InputError(f"{what} has no vector for each frame.", "Choose wav2vec2, HuBERT or Whisper.")
    _check_cut(model, config, masked=masked, what=what)
    stages = _stages(model, config.model_type, "" if frames else pooling, masked=masked)
    facts = {"encoder": transformers_hub.plain(config), "masked": masked, "pooling": stages[-1].pooling}
    state = {f"{i}.{key}": value for i, stage in enumerate(stages) for key, value in stage.state_dict().items()}
    fixed = config.model_type == "audio-spectrogram-transformer"
    native = _native(config, front)
    return Encoder(tuple(stages), config.hidden_size, front, native, fixed, facts, state_digest(state))


def rebuild_stages(facts: Mapping[str, Any]) -> tuple[tuple[nn.Module, ...], int]:
    """The stages that `config` of an `Encoder` describes, with random weights, and their number of features."""
    if "speaker" in facts:
        return _speaker_stages(frames=facts["speaker"] == "frames"), SPEAKER_SIZE
    from transformers import AutoConfig

    config = AutoConfig.for_model(**facts["encoder"])
    model: Any = transformers_hub.from_config(config)
    model = model.encoder if config.model_type == "whisper" else model
    stages = _stages(model, config.model_type, facts["pooling"], masked=facts["masked"])
    return tuple(stages), config.hidden_size


def _speaker(backbone: str, weights: str, *, frames: bool) -> Encoder:
    stages = _speaker_stages(frames=frames)
    if weights != "none":
        source = _packaged() if weights in ("default", SPEAKER_PACKAGE) else weights
        if backbone not in ("", SPEAKER):
            raise InputError(f"The weights {weights} are of the backbone {SPEAKER}, not of {backbone}.", "Name that.")
        state = load_state(source)
        # two numbers of its training's loss, and names of one LSTM of three layers
        state = {name: tensor for name, tensor in state.items() if not name.startswith("similarity_")}
        state = {_renamed(name, frames=frames): tensor for name, tensor in state.items()}
        unused = str(SPEAKER_LAYERS) if frames else "-"
        fit_state(nn.ModuleList(stages), state, unused, f"The weights {weights} of {SPEAKER}")
    facts = {"speaker": "frames" if frames else "windows"}
    digest = state_digest(nn.ModuleList(stages).state_dict())
    return Encoder(stages, SPEAKER_SIZE, SPEAKER_FRONT, native=0, fixed=False, config=facts, weights_digest=digest)


def _speaker_stages(*, frames: bool) -> tuple[nn.Module, ...]:
    above = [
        Recurrent(SPEAKER_SIZE, last=not frames and layer == SPEAKER_LAYERS - 1) for layer in range(1, SPEAKER_LAYERS)
    ]
    return (Recurrent(BANDS), *above) if frames else (Windows(), *above, Embedding())


def _renamed(name: str, *, frames: bool) -> str:
    if not name.startswith("lstm."):
        return f"{SPEAKER_LAYERS}.{name}"
    tensor, _, layer = name.removeprefix("lstm.").rpartition("_l")
    inner = "layer." if layer == "0" and not frames else ""
    return f"{layer}.{inner}{tensor}"


def _packaged() -> str:
    check_installed(SPEAKER_PACKAGE, "Or use --backbone hf/NAME, or a folder with --weights.")
    found = importlib.util.find_spec("resemblyzer")  # not imported: it asks for libraries that nothing here needs
    return str(Path(str(found and found.origin)).with_name("pretrained.pt"))


def _described(place: str, what: str) -> tuple[Any, Mapping[str, Any]]:
    """Configuration, and what the feature extractor's own file says."""
    transformers_hub.quiet()
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        if config.model_type in FAMILIES:
            extractor = transformers.AutoFeatureExtractor.from_pretrained(place, trust_remote_code=False)
            return config, extractor.to_dict()
    except Exception as error:  # whatever the hub, its client or a damaged file raises
        raise transformers_hub.cannot_load(what, error) from error
    raise InputError(f"{what} is a {config.model_type}, which is not supported.", f"Use one of: {', '.join(FAMILIES)}.")


def _front(config: Any, extractor: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - transformers' own
    rate = {"sample_rate": int(extractor["sampling_rate"])}
    if config.model_type in WAVES:
        return {"front": "wave", **rate, "normalize": bool(extractor["do_normalize"])}
    if config.model_type == "whisper":
        sizes = {"window": extractor["n_fft"], "fft": extractor["n_fft"], "hop": extractor["hop_length"]}
        sizes |= {"bands": config.num_mel_bins, "scale": "slaney", "edges": "reflect", "log": "whisper"}
        return {"front": "mel", **rate, **sizes}
    mean, std = (extractor["mean"], 2 * extractor["std"]) if extractor["do_normalize"] else (0.0, 1.0)
    sizes = {"window": 400, "fft": 512, "hop": 160, "bands": config.num_mel_bins, "scale": "kaldi", "edges": "none"}
    return {"front": "mel", **rate, **sizes, "log": "kaldi", "mean": mean, "std": std}


def _native(config: Any, front: Mapping[str, Any]) -> int:  # noqa: ANN401 - as above
    if config.model_type == "whisper":
        return int(config.max_source_positions * 2 * front["hop"])
    return 0 if config.model_type in WAVES else int((config.max_length - 1) * front["hop"] + front["window"])


def _check_cut(model: Any, config: Any, *, masked: bool, what: str) -> None:  # noqa: ANN401 - as above
    """Refuse a network whose stages don't give what the whole gives."""
    model.eval()
    draw = torch.Generator().manual_seed(0)
    reason = ""
    try:
        with torch.no_grad():
            if config.model_type in WAVES:
                shortest = 16 * int(torch.tensor(config.conv_stride).prod())
                length = torch.tensor([2 * shortest, shortest])
                sound = torch.randn(2, 2 * shortest, generator=draw)
                sound = sound * (torch.arange(2 * shortest) < length[:, None])
                mask = (torch.arange(2 * shortest) < length[:, None]).long() if masked else None
                whole = model(sound, attention_mask=mask).last_hidden_state
            else:
                frames = config.max_source_positions * 2 if config.model_type == "whisper" else config.max_length
                sound, length = torch.randn(1, frames, config.num_mel_bins, generator=draw), torch.tensor([frames])
                whole = model(sound.transpose(1, 2) if config.model_type == "whisper" else sound).last_hidden_state
            given: Any = {"sound": sound, "length": length}
            for stage in _stages(model, config.model_type, "", masked=masked):
                given = stage(given)
            seen = valid(whole, given["length"]) if masked else torch.ones(whole.shape[:2], dtype=torch.bool)
            if torch.allclose(given["hidden"][seen], whole[seen], rtol=0, atol=TOLERANCE):
                return
    except Exception as error:  # noqa: BLE001 - foreign code on a network that it was not made for
        reason = f" ({type(error).__name__})"
    raise InputError(f"{what} can't be cut into stages{reason}.", f"Choose one of: {', '.join(FAMILIES)}.")


def _stages(model: Any, family: str, pooling: str, *, masked: bool) -> list[Any]:  # noqa: ANN401 - as above
    if family in WAVES:
        norm = model.encoder.layer_norm if model.config.do_stable_layer_norm else None
        front, layers = WaveFront(model, masked=masked), model.encoder.layers
    elif family == "whisper":
        front, layers, norm = BandFront(model), model.layers, model.layer_norm  # type: ignore[assignment]
    else:
        front, layers, norm = PatchFront(model), model.layers, model.layernorm  # type: ignore[assignment]
    last = len(layers) - 1
    ends = [(norm, pooling) if number == last else (None, "") for number in range(len(layers))]
    return [front, *(Layer(layer, *end, masked=masked) for layer, end in zip(layers, ends, strict=True))]
