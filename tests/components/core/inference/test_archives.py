"""An exported graph is checked before anything in it is loaded."""

import io
import json
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from components.core.inference.archives import check_archive, check_folder, folder_digest
from components.core.networks.network import Network
from components.core.registry.serving import export_network


class Bomb:
    """Unpickling this writes a file: how a tampered archive would run code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (_write, (str(self.target), "boom"))


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported graph of two layers."""
    network = Network([nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))], nn.Linear(4, 3), {})
    path = tmp_path_factory.mktemp("archive") / "network.pt2"
    export_network(network, torch.randn(2, 2), path)
    return path


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in extra.items():
            new.writestr(name, content)
    return target


def test_an_honest_archive_passes(archive: Path) -> None:
    """What export_network writes is on the list and answers any batch size."""
    check_archive(archive)
    graph = torch.export.load(archive).module()
    assert [tuple(graph(torch.randn(n, 2)).shape) for n in (1, 2, 7)] == [(1, 3), (2, 3), (7, 3)]


def test_sample_inputs_are_refused(archive: Path, tmp_path: Path) -> None:
    """A pickle where sample inputs lie is refused, and not executed."""
    target = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(target))
    tampered = rewritten(archive, tmp_path / "t.pt2", lambda name, old: bomb if "sample_inputs" in name else old, {})
    with pytest.raises(ValueError, match="sample inputs"):
        check_archive(tampered)
    assert not target.exists()


@pytest.mark.parametrize("name", ["network/data/constants/custom_obj_0", "network/extra/evil.pkl", "../evil.json"])
def test_unknown_members_are_refused(name: str, archive: Path, tmp_path: Path) -> None:
    """A member that is not on the list is refused by its name."""
    tampered = rewritten(archive, tmp_path / "t.pt2", lambda _name, old: old, {name: b"x"})
    with pytest.raises(ValueError, match="unexpected member"):
        check_archive(tampered)


def test_pickled_weights_are_refused(archive: Path, tmp_path: Path) -> None:
    """A weight that the configuration calls a pickle is refused: loading would unpickle it."""

    def pickled(name: str, old: bytes) -> bytes:
        if not name.endswith("weights_config.json"):
            return old
        config = json.loads(old)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()

    with pytest.raises(ValueError, match="as a pickle"):
        check_archive(rewritten(archive, tmp_path / "t.pt2", pickled, {}))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    """A torch.save file or a torn one is not an exported graph."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    (tmp_path / "saved.pt2").write_bytes(buffer.getvalue())
    (tmp_path / "torn.pt2").write_bytes(buffer.getvalue()[:100])
    for name in ("saved.pt2", "torn.pt2", "missing.pt2"):
        with pytest.raises(ValueError, match=name):
            check_archive(tmp_path / name)


def test_no_damage_is_another_error(archive: Path, tmp_path: Path) -> None:
    """Whatever bytes are flipped or missing, the archive passes or is refused with a ValueError."""
    packed = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    whole, rng, refused = packed.getvalue(), random.Random(7), 0
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        if number % 5 == 0:
            del damaged[rng.randrange(len(whole)) :]
        (tmp_path / "t.pt2").write_bytes(damaged)
        try:
            check_archive(tmp_path / "t.pt2")
        except ValueError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("config", [[], {"config": []}, {"config": {"a": 3}}, {"other": {}}])
def test_a_list_of_weights_of_another_form_is_refused(config: object, archive: Path, tmp_path: Path) -> None:
    """JSON that is no list of weights is one sentence."""

    def changed(name: str, old: bytes) -> bytes:
        return json.dumps(config).encode() if name.endswith("weights_config.json") else old

    with pytest.raises(ValueError, match="is not an exported graph"):
        check_archive(rewritten(archive, tmp_path / "t.pt2", changed, {}))


def test_a_list_of_weights_is_bounded(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that would unpack to gigabytes is refused by the size that it tells."""
    monkeypatch.setattr("components.core.inference.archives.MAX_CONFIG_BYTES", 10)
    with pytest.raises(ValueError, match="weights_config.json' of .* bytes"):
        check_archive(archive)


@pytest.fixture
def model(archive: Path, tmp_path: Path) -> Path:
    """A model folder with the least that it needs."""
    folder = tmp_path / "model"
    (folder / "artifacts/served").mkdir(parents=True)
    shutil.copy(archive, folder / "artifacts/served/network.pt2")
    (folder / "MLmodel").write_text("flavors: {}")
    return folder


def test_folder_digest_sees_every_change(model: Path) -> None:
    """A changed byte, a new file and a renamed file each change the digest."""
    digests = {folder_digest(model)}
    (model / "MLmodel").write_text("flavors: []")
    digests.add(folder_digest(model))
    (model / "conda.yaml").write_text("")
    digests.add(folder_digest(model))
    (model / "conda.yaml").rename(model / "python_env.yaml")
    digests.add(folder_digest(model))
    assert len(digests) == 4


@pytest.mark.parametrize("name", ["model.pkl", "artifacts/served/evil.py", "code/evil.py", "checkpoint/network.pth"])
def test_unknown_files_are_refused(name: str, model: Path) -> None:
    """A model folder holds the known files and no other."""
    check_folder(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("x")
    with pytest.raises(ValueError, match="unexpected file"):
        check_folder(model)


def test_links_are_refused(model: Path) -> None:
    """A link could point to anything on the machine that loads the model."""
    (model / "conda.yaml").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="unexpected file"):
        check_folder(model)
    with pytest.raises(ValueError, match="link"):
        folder_digest(model)
