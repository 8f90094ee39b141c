"""Text networks of transformers as stages."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.core.errors import InputError
from components.core.networks import texts
from components.core.networks.network import Network
from components.core.networks.texts import build_encoder, pooled, rebuild_stages
from components.core.registry.serving import export_network
from components.core.storage import s3
from components.core.weight_sources import MINILM_BACKBONE
from tests.data.text_models import FAMILIES, SIZE, save_model


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def batch(length: int = 10) -> dict[str, Tensor]:
    ids = torch.randint(4, 16, (3, length))
    mask = torch.arange(length) < torch.tensor([[length], [6], [2]])
    return {"ids": ids.masked_fill(~mask, 1), "mask": mask}


def run(stages: tuple[nn.Module, ...], value: Any) -> Tensor:
    with torch.no_grad():
        for stage in stages:
            value = stage.eval()(value)
    return value  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_give_what_the_whole_network_gives(family: str, tmp_path: Path) -> None:
    """Embedding and layers, one after another, are the network of transformers; padding changes nothing."""
    from transformers import AutoModel

    folder = save_model(tmp_path / family, family)
    encoder = build_encoder("hf/x", str(folder), "auto")
    assert len(encoder.stages) == 1 + 2
    value = batch()
    whole = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = whole(input_ids=value["ids"], attention_mask=value["mask"].long()).last_hidden_state
    pooling = "last" if family.startswith("gpt") else "mean"
    expected = pooled(hidden, value["mask"], pooling)
    torch.testing.assert_close(run(encoder.stages, value), expected, rtol=0, atol=1e-5)
    assert encoder.features == expected.shape[1] == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_are_rebuilt_without_the_weights(family: str, tmp_path: Path) -> None:
    """What a checkpoint says of the network is enough for the same stages, whatever their weights are then."""
    encoder = build_encoder("hf/x", str(save_model(tmp_path / family, family)), "auto")
    stages, features = rebuild_stages(json.loads(json.dumps(encoder.config)))
    assert features == encoder.features
    for old, new in zip(encoder.stages, stages, strict=True):
        assert str(old) == str(new)
        new.load_state_dict(old.state_dict())
    value = batch()
    assert torch.equal(run(stages, value), run(encoder.stages, value))


EXPORTS = [pytest.param(family, marks=[] if family == "bert" else pytest.mark.slow) for family in FAMILIES]


@pytest.mark.parametrize("family", EXPORTS)
def test_every_family_is_exported_for_serving(family: str, tmp_path: Path) -> None:
    """The graph of a served model answers as the network, in batches of any size and padding."""
    encoder = build_encoder("hf/x", str(save_model(tmp_path / family, family)), "auto")
    network = Network(encoder.stages, nn.Linear(encoder.features, 2), {}).eval()
    value = batch()
    export_network(network, {name: tensor[:2] for name, tensor in value.items()}, tmp_path / "network.pt2")
    with torch.no_grad():
        served = torch.export.load(tmp_path / "network.pt2").module()(value)
        torch.testing.assert_close(served, network(value), rtol=0, atol=1e-5)


def test_pooling() -> None:
    """The mean of the tokens, the first or the last one; what pads counts for nothing."""
    hidden, mask = torch.arange(12.0).view(2, 3, 2), torch.tensor([[True, True, False], [True, True, True]])
    assert pooled(hidden, mask, "mean").tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert pooled(hidden, mask, "cls").tolist() == [[0.0, 1.0], [6.0, 7.0]]
    assert pooled(hidden, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]


def test_positions_are_those_that_the_network_has(tmp_path: Path) -> None:
    """RoBERTa's table begins behind the padding; a tokenizer that allows less decides."""
    assert build_encoder("hf/x", str(save_model(tmp_path / "a", "bert")), "auto").positions == 40
    folder = save_model(tmp_path / "b", "roberta", max_position_embeddings=32)
    assert build_encoder("hf/x", str(folder), "auto").positions == 30


def test_the_packaged_encoder_is_a_real_one() -> None:
    """The packaged MiniLM finds two sentences on cats closer than one on taxes."""
    from components.core.inference.texts import encode

    encoder = build_encoder(MINILM_BACKBONE, "default", "auto")
    preprocessing = {"tokenizer": encoder.tokenizer, "max_length": 16, "pad": encoder.pad}
    rows = encode(
        [b"The cat sleeps on the sofa.", b"A kitten naps on the couch.", b"Tax law changes again."], preprocessing
    )
    cats, kitten, tax = nn.functional.normalize(run(encoder.stages, rows))
    assert cats @ kitten > 0.5 > cats @ tax + 0.2
    assert (len(encoder.stages), encoder.features, encoder.positions) == (7, 384, 512)


def test_random_weights_follow_the_seed(tmp_path: Path) -> None:
    """With the weights of a file the network is that one; the digest tells weights apart."""
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "m", "bert")
    whole = build_encoder("hf/x", str(folder), "mean")
    state = {name: tensor + 0.1 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert build_encoder("hf/x", str(folder), "mean").weights_digest != whole.weights_digest


def test_a_pickled_file_is_read_without_its_code(tmp_path: Path) -> None:
    """Weights in pytorch_model.bin are read as tensors only; one that holds code is refused."""
    from safetensors.torch import load_file

    folder = save_model(tmp_path / "m", "bert")
    digest = build_encoder("hf/x", str(folder), "mean").weights_digest
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert build_encoder("hf/x", str(folder), "mean").weights_digest == digest

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({**state, "evil": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be loaded"):
        build_encoder("hf/x", str(folder), "mean")
    assert not (tmp_path / "ran").exists()


def test_weights_that_lack_tensors_are_refused(tmp_path: Path) -> None:
    """A file without a layer is not filled up with random numbers."""
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "m", "bert")
    state = {n: t for n, t in load_file(folder / "model.safetensors").items() if "layer.1." not in n}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="lack 16 tensors"):
        build_encoder("hf/x", str(folder), "mean")


@pytest.mark.parametrize(
    ("backbone", "weights", "sentence"),
    [
        pytest.param(
            *("hf/no-such/encoder", "default", "hf/no-such/encoder could not be loaded"),
            marks=pytest.mark.slow,  # the hub's client tries again for a while
        ),
        ("timm/tf_efficientnet_lite0", "default", "not a network of the Hugging Face hub"),
        ("hf/x", "no/such/folder", "no weights 'no/such/folder' of hf/x"),
        ("hf/x", "package:efficientnet-lite0", "no weights 'package:efficientnet-lite0' of hf/x"),
    ],
)
def test_what_can_not_be_had_is_an_input_error(backbone: str, weights: str, sentence: str) -> None:
    """A name that is not in the cache while the hub is out of reach, a picture network, and a folder that is not there.

    Weights that were asked for are never those of the hub instead.
    """
    with pytest.raises(InputError, match=sentence):
        build_encoder(backbone, weights, "auto")


def test_a_model_on_s3_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a prefix, whose name may hold a dot, the files of the model are fetched, and no others."""
    folder, got = save_model(tmp_path / "mine", "bert"), list[str]()
    (folder / "training.log").write_text("…")

    def download(uri: str, target: Path) -> None:
        got.append(uri)
        shutil.copy(folder / uri.rpartition("/")[2], target)

    names = [path.name for path in folder.iterdir()]
    listed = [(f"s3://bucket/bert.v2/{name}", 1, "") for name in [*names, "deep/model.safetensors"]]
    monkeypatch.setattr(s3, "list_objects", lambda root: listed if root == "s3://bucket/bert.v2/" else [])
    monkeypatch.setattr(s3, "download", download)
    there, here = (build_encoder("hf/x", weights, "auto") for weights in ("s3://bucket/bert.v2", str(folder)))
    assert there.weights_digest == here.weights_digest
    assert sorted(got) == sorted(f"s3://bucket/bert.v2/{name}" for name in names if name != "training.log")


def test_a_folder_may_be_named_without_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the working directory is one, too."""
    save_model(tmp_path / "mine", "bert")
    monkeypatch.chdir(tmp_path)
    assert build_encoder("hf/x", "mine", "auto").features == 16


def test_a_network_that_shares_its_layers_is_refused(tmp_path: Path) -> None:
    """ALBERT runs one layer many times, which no list of stages can say."""
    from transformers import AlbertConfig, AlbertModel

    folder = save_model(tmp_path / "m", "bert")
    (folder / "model.safetensors").unlink()
    AlbertModel(AlbertConfig(**SIZE, embedding_size=8)).save_pretrained(folder)
    with pytest.raises(InputError, match="can't be cut into stages"):
        build_encoder("hf/x", str(folder), "auto")


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("pooling", ["", "mean", "last"])
def test_rows_of_one_length_are_computed_together(kind: str, pooling: str, tmp_path: Path) -> None:
    """A batch divided by its rows' lengths gives what it gives whole, gradients included, and zeros at its padding."""
    encoder = build_encoder("hf/x", str(save_model(tmp_path / kind, kind)), pooling or "mean")
    layer: Any = encoder.stages[-1]
    layer.pooling = pooling
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(100) < torch.tensor([[100], [3], [40], [33], [5], [70]])
    found = []
    for together in (False, True):
        torch.use_deterministic_algorithms(together)
        try:
            hidden = torch.randn(6, 100, encoder.features, generator=generator.manual_seed(0)).requires_grad_()
            given = layer({"hidden": hidden, "mask": mask})
            given = given if pooling else given["hidden"]
            given.square().sum().backward()
            found.append((given.detach(), hidden.grad))
        finally:
            torch.use_deterministic_algorithms(False)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    if not pooling:
        assert not found[0][0][~mask].any()


def test_lengths_decide_which_rows_go_together() -> None:
    """Rows share the multiple of 32 that holds them; a batch that is hardly padded stays whole."""
    mask = torch.arange(128) < torch.tensor([[32], [128], [33], [1]])
    assert [(rows.tolist(), width) for rows, width in texts._groups(mask)] == [([0, 3], 32), ([2], 64), ([1], 128)]
    assert texts._groups(torch.ones(4, 128, dtype=torch.bool)) == []
