"""Sound networks of transformers, and the packaged speaker encoder, as stages."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from components.core.compute import engines
from components.core.errors import InputError
from components.core.inference.sounds import encode_waves
from components.core.modalities.sound_lengths import preprocessing_for
from components.core.networks import sounds
from components.core.networks.network import Network
from components.core.networks.sounds import build_encoder, rebuild_stages
from components.core.registry.serving import export_network
from tests.data.sound_models import FAMILIES, save_model, tone


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(stages: tuple[nn.Module, ...], value: Any) -> Any:
    with torch.no_grad():
        for stage in stages:
            value = stage.eval()(value)
    return value


def inputs(encoder: sounds.Encoder) -> dict[str, Tensor]:
    preprocessing = preprocessing_for(encoder, encoder.native / 16_000 or 0.5)
    return encode_waves([tone(300, 0.5), tone(500, 0.2), tone(900, 1.5)], preprocessing)


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_give_what_the_whole_network_gives(family: str, tmp_path: Path) -> None:
    """Front and layers, one after another, are the network of transformers, and the same frames are pooled."""
    from transformers import AutoModel

    encoder = build_encoder("hf/x", str(save_model(tmp_path / "m", family)))
    assert (len(encoder.stages), encoder.features) == (3, 16)
    value = inputs(encoder)
    sound, length = value["sound"], value["length"]
    whole = AutoModel.from_pretrained(tmp_path / "m").eval()
    mask = torch.arange(sound.shape[1]) < length[:, None]
    with torch.no_grad():
        if family == "ast":
            expected = whole(sound).pooler_output
        elif family == "whisper":
            hidden = whole.encoder(sound.transpose(1, 2)).last_hidden_state
            expected = torch.stack([row[: (n + 1) // 2].mean(0) for row, n in zip(hidden, length, strict=True)])
        else:
            hidden = whole(sound, attention_mask=mask.long() if "masked" in family else None).last_hidden_state
            frames = whole._get_feat_extract_output_lengths(length)
            expected = torch.stack([row[:n].mean(0) for row, n in zip(hidden, frames, strict=True)])
    torch.testing.assert_close(run(encoder.stages, value), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("family", ["wav2vec2-masked", "whisper", "speaker"])
def test_stages_are_rebuilt_without_the_weights(family: str, frames: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """What a checkpoint says of the network is enough for the same stages, whatever their weights are then."""
    if family == "speaker":
        encoder = build_encoder("speaker/lstm", "none", frames=frames)
    else:
        encoder = build_encoder("hf/x", str(save_model(tmp_path / "m", family)), frames=frames)
    stages, features = rebuild_stages(json.loads(json.dumps(encoder.config)))
    assert features == encoder.features
    for old, new in zip(encoder.stages, stages, strict=True):
        assert str(old) == str(new)
        new.load_state_dict(old.state_dict())
    value = inputs(encoder)
    old, new = run(encoder.stages, value), run(stages, value)
    if frames:
        assert torch.equal(old["length"], new["length"])
        old, new = old["hidden"], new["hidden"]
        assert old.dim() == 3
    assert torch.equal(old, new)


EXPORTS = [pytest.param(name, marks=[] if name == "whisper" else pytest.mark.slow) for name in FAMILIES]


@pytest.mark.parametrize("family", EXPORTS)
def test_every_family_is_exported_for_serving(family: str, tmp_path: Path) -> None:
    """The graph of a served model answers as the network, in batches of any size and padding."""
    encoder = build_encoder("hf/x", str(save_model(tmp_path / "m", family)))
    network = Network(encoder.stages, nn.Linear(encoder.features, 2), {}).eval()
    value = inputs(encoder)
    export_network(network, {name: tensor[:2] for name, tensor in value.items()}, tmp_path / "network.pt2")
    with torch.no_grad():
        served = torch.export.load(tmp_path / "network.pt2").module()(value)
        torch.testing.assert_close(served, network(value), rtol=0, atol=1e-5)


def test_padding_changes_nothing_where_it_is_masked(tmp_path: Path) -> None:
    """With an attention mask a sound gives the same alone as beside a longer one."""
    encoder = build_encoder("hf/x", str(save_model(tmp_path / "m", "wav2vec2-masked")))
    both = run(encoder.stages, encode_waves([tone(300, 0.2)], {**encoder.front, "samples": 16_000}))
    alone = run(encoder.stages, encode_waves([tone(300, 0.2)], {**encoder.front, "samples": 3_200}))
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)


def reference_embedding(lstm: nn.LSTM, linear: nn.Linear, mel: Tensor) -> Tensor:
    """As Resemblyzer's `embed_utterance`: the mean of the unit vectors of windows."""
    starts = [start for start in range(0, len(mel), 77) if start == 0 or len(mel) - start >= 120]
    windows = torch.stack([nn.functional.pad(mel[s : s + 160], (0, 0, 0, max(0, s + 160 - len(mel)))) for s in starts])
    _, (hidden, _) = lstm(windows)
    units = nn.functional.normalize(linear(hidden[-1]).relu(), dim=1)
    return nn.functional.normalize(units.mean(0), dim=0)


@pytest.mark.parametrize("seconds", [0.4, 1.6, 2.2, 2.5, 4.0])
def test_the_speaker_encoder_is_its_papers(seconds: float, tmp_path: Path) -> None:
    """Three stages of one layer each are the LSTM of three layers on overlapping windows, whatever the padding."""
    torch.manual_seed(1)
    lstm, linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)
    state = {f"lstm.{name}": tensor for name, tensor in lstm.state_dict().items()}
    state |= {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    scalars = {"similarity_weight": torch.zeros(1), "similarity_bias": torch.zeros(1)}
    torch.save({"step": 1, "model_state": state | scalars}, tmp_path / "speaker.pt")
    encoder = build_encoder("speaker/lstm", str(tmp_path / "speaker.pt"))
    batch = encode_waves([tone(300, seconds), tone(800, 4.0)], {**encoder.front, "samples": 4 * 16_000})
    found = run(encoder.stages, batch)[0]
    with torch.no_grad():
        expected = reference_embedding(lstm, linear, batch["sound"][0, : int(batch["length"][0])])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)  # a window's padding hears the edge of the sound
    frames = run(build_encoder("speaker/lstm", str(tmp_path / "speaker.pt"), frames=True).stages, batch)
    with torch.no_grad():
        torch.testing.assert_close(frames["hidden"], lstm(batch["sound"])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "weights", "sentence"),
    [
        pytest.param(
            *("hf/no-such/encoder", "default", "network hf/no-such/encoder could not be loaded"),
            marks=pytest.mark.slow,  # the hub's client tries again for a while
        ),
        ("timm/tf_efficientnet_lite0", "default", "not a network of the Hugging Face hub"),
        ("hf/facebook/hubert-base-ls960", "package:resemblyzer", "are of the backbone speaker/lstm"),
    ],
)
def test_what_can_not_be_had_is_an_input_error(
    backbone: str, weights: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not in the cache while the hub is out of reach, and a picture network, are told in a sentence."""
    monkeypatch.setattr(sounds, "_packaged", lambda: "package:resemblyzer")
    with pytest.raises(InputError, match=sentence):
        build_encoder(backbone, weights)


def test_a_whole_model_asks_for_no_backbone(tmp_path: Path) -> None:
    """A folder of a model is that model, where the task's own backbone is meant."""
    assert build_encoder("speaker/lstm", str(save_model(tmp_path / "m", "hubert"))).features == 16


def test_the_package_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the packaged weights are not installed, the error says how to get them."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match="pip install --no-deps resemblyzer"):
        build_encoder("speaker/lstm", "default")


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    """A text network, and frames of a network that has none, are told in a sentence."""
    from tests.data.text_models import save_model as save_text

    with pytest.raises(InputError, match="is a bert, which is not supported"):
        build_encoder("hf/x", str(save_text(tmp_path / "text", "bert")))
    with pytest.raises(InputError, match="has no vector for each frame"):
        build_encoder("hf/x", str(save_model(tmp_path / "ast", "ast")), frames=True)


def test_lengths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """AST takes one length, Whisper none above its own, and no network so little that no window fits into it."""
    ast, whisper = (build_encoder("hf/x", str(save_model(tmp_path / name, name))) for name in ("ast", "whisper"))
    assert preprocessing_for(ast, 0)["samples"] == 99 * 160 + 400
    assert preprocessing_for(whisper, 0.5)["samples"] == 8_000
    with pytest.raises(InputError, match="only 1.015 s"):
        preprocessing_for(ast, 0.5)
    with pytest.raises(InputError, match="at most 1 s"):
        preprocessing_for(whisper, 1.5)
    with pytest.raises(InputError, match="seconds=0.01 is less than 0.1 s"):
        preprocessing_for(whisper, 0.01)


@pytest.mark.parametrize("frames", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_speaker_encoder_runs_on_a_faster_engine(frames: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """Its frozen stages are exported to ONNX, and give what eager gives."""
    encoder = build_encoder("speaker/lstm", "none", frames=frames)
    network = Network(encoder.stages, nn.Identity(), {}).eval()
    batch = encode_waves([tone(300, 0.5 + i / 10) for i in range(8)], {**encoder.front, "samples": 32_000})
    lines = [1, len(encoder.stages)]
    plain = engines.eager(network, lines).run(batch)
    chosen, reason = engines.choose(network, lines, batch, 10**7, tmp_path)
    assert "torchscript: " not in reason.replace("torchscript: exported", ""), reason
    for ours, theirs in zip(tree_leaves(chosen.run(batch)), tree_leaves(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
