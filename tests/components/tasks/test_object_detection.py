"""Pictures into boxes."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from components.core.contract.listener import SILENT
from components.core.contract.task import load_task
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError
from components.core.fitting.data import Data, open_data
from components.core.settings import Hyperparameters, Settings
from components.core.tracking.pyfunc import load_pyfunc
from components.core.training.phase import build_network, outputs, train_phase
from components.tasks import object_detection
from pipelines.cli import app
from tests.data.pasted import write_manifest, write_shapes
from tests.support.plain import run_steps

SMALL = Settings(
    task="object_detection", model="shapes", backbone="torchvision/resnet18", weights="none", image_size=64, trials=0,
    near_duplicates=-1, batch_size=8, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_manifest(folder / "boxes.jsonl", write_shapes(folder, 60))
    return folder / "boxes.jsonl"


@pytest.fixture(scope="module")
def data(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Data:
    dataset = tmp_path_factory.mktemp("dataset")
    prepare(str(shapes), SMALL, dataset, Lineage(salt="0"), SILENT.progress)
    return open_data(dataset, SMALL)


def test_options_that_are_not_for_boxes_are_refused() -> None:
    """What would cut boxes off, mix them or cache them unmoved is an error that names the way out."""
    task = load_task("object_detection")
    for change, match in (
        ({"resize": "crop"}, "--resize crop is not for object detection"),
        ({"head": "mlp"}, "--head mlp is not for object detection"),
        ({"mixup": 0.2}, "can't be mixed"),
    ):
        with pytest.raises(InputError, match=match):
            task.build(SMALL.model_copy(update=change), ["a"], 0.0)
    for change, match in (
        ({"augment": "randaugment"}, "--augment randaugment moves no boxes"),
        ({"augment": "basic", "views": 2}, "--views caches no boxes"),
    ):
        with pytest.raises(InputError, match=match):
            task.augments(SMALL.model_copy(update=change))
    with pytest.raises(InputError, match="--class-weights and --label-smoothing are for classes"):
        task.target(SMALL.model_copy(update={"class_weights": "balanced"}))


def test_without_its_library_the_task_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where faster-coco-eval is not installed, the error says how to get it."""
    for name in [name for name in sys.modules if name.endswith(("object_detection", "detection_metrics"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.delitem(sys.modules, "components.core.targets.detection", raising=False)
    with pytest.raises(InputError, match="needs the library faster_coco_eval.*detection"):
        load_task("object_detection")


def test_broken_boxes_are_rejected_with_their_reasons(tmp_path: Path, home: Path) -> None:
    """Each bad row stands in the table of rejected records with what is wrong with it; the others go on."""
    shown = write_shapes(tmp_path, 24)
    write_manifest(tmp_path / "boxes.jsonl", shown)
    lines = (tmp_path / "boxes.jsonl").read_text().splitlines()
    bad = {
        "a box lies outside the picture": [{"box": [0, 0, 500, 9], "class": "disk"}],
        "a box has swapped corners": [{"box": [9, 0, 5, 9], "class": "disk"}],
        "a box has no area": [{"box": [9, 0, 9, 9], "class": "disk"}],
        "a box has no class": [{"box": [0, 0, 9, 9], "class": ""}],
        "the label is not a JSON list of boxes": "disk",
    }
    rows = [json.dumps({"uri": f"images/{i:03}.png", "label": label}) for i, label in enumerate(bad.values())]
    missing = json.dumps({"uri": "images/gone.png", "label": []})
    (tmp_path / "boxes.jsonl").write_text("\n".join([*rows, missing, *lines[len(bad) :]]) + "\n")
    settings = SMALL.model_copy(update={"max_rejected": 0.5})
    info = prepare(str(tmp_path / "boxes.jsonl"), settings, tmp_path / "dataset", Lineage(salt="0"), SILENT.progress)
    assert info.classes == ["bar", "disk"]
    assert info.examples == 24 - len(bad)
    reasons = [row["reason"] for row in pd.read_parquet(tmp_path / "dataset/rejected.parquet").to_dict("records")]
    assert all(any(reason.startswith(begin) for reason in reasons) for begin in bad)
    assert any("no such file" in reason for reason in reasons)


@pytest.mark.slow
def test_kept_and_recomputed_activations_train_the_same_detector(data: Data, home: Path) -> None:
    """With maps that are kept at the thaw line, the head learns what the usual loop without a cache teaches it."""
    found = {}
    for activations in ("keep", "recompute"):
        settings = data.settings.model_copy(
            update={"activations": activations, "head_epochs": 2, "deterministic": True}
        )
        some = Data(data.task, data.target, settings, data.examples, data.rows, data.targets, None)
        network = build_network(some, Hyperparameters())
        train_phase(network, some, Hyperparameters(), thaw=0)
        found[activations] = outputs(network, some, 0, "validation")
        figures = data.target.validate(found[activations], data.targets["validation"])
        found[activations]["figures"] = torch.tensor([figures["loss"], figures["map"]])
    for name in found["keep"]:
        assert torch.allclose(found["keep"][name].double(), found["recompute"][name].double(), atol=1e-5), name


@pytest.mark.slow
def test_maps_that_are_kept_in_half_precision_answer_nearly_the_same(data: Data, home: Path) -> None:
    """Maps are rounded to float16, sizes of pictures are not."""
    network = build_network(data, Hyperparameters())
    exact = outputs(network, data, 0, "validation")
    settings = data.settings.model_copy(update={"activation_precision": "float16", "activations": "keep"})
    halved = Data(data.task, data.target, settings, data.examples, data.rows, data.targets, None)
    found = outputs(network, halved, 0, "validation")
    assert torch.equal(found["size"], exact["size"])
    assert not torch.equal(found["bbox_regression"], exact["bbox_regression"])
    assert torch.allclose(found["bbox_regression"], exact["bbox_regression"], atol=0.01)


def test_augmentation_reaches_the_loss_with_moved_boxes(data: Data, home: Path) -> None:
    """Fresh batches train on boxes that moved with their pictures."""
    settings = data.settings.model_copy(update={"augment": "basic", "head_epochs": 1})
    some = Data(data.task, data.target, settings, data.examples, data.rows, data.targets, None)
    network = build_network(some, Hyperparameters())
    (epoch,) = train_phase(network, some, Hyperparameters(), thaw=0)
    assert np.isfinite(epoch["train_loss"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No complete tensor")  # torch's, of weights that lie channels last
def test_boxes_go_the_whole_way(shapes: Path, tracked_home: Path, tmp_path: Path) -> None:
    """Above pretrained weights nine test pictures are enough to promote a detector, which then draws boxes."""
    own = {"backbone": "timm/tf_efficientnet_lite0", "weights": "package:efficientnet-lite0"}
    rates = {"head_epochs": 12, "thaw": 1, "thaw_epochs": 2, "head_learning_rate": 0.01}
    run = run_steps(shapes, SMALL.model_copy(update=own | rates), tmp_path / "run")
    assert {"map", "map50", "box_f1"} <= run.metrics.keys()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Precision and recall" in page
    assert run.accepted, run.result["reason"]
    served = load_pyfunc(tmp_path / "run" / "served")
    picture = shapes.parent / "images" / "000.png"
    answer = served.predict(pd.DataFrame({"image": [picture.read_bytes()]})).iloc[0]
    assert (answer["width"], answer["height"]) == (80, 64)
    command = ["predict", "--model", "shapes@champion", str(picture), "--draw", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["predictions"][0]["width"] == answer["width"]
    shown = CliRunner().invoke(app, command[:4]).stdout.rstrip("\n").split("\t")[1:]
    assert len(shown) == max(1, answer["sure"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00000-000.jpg"]


def test_a_checkpoint_is_rebuilt_without_its_weights() -> None:
    """The network of a checkpoint has the same tensors, and needs no pretrained ones."""
    network = object_detection.build(SMALL, ["a", "b"], 0.0)
    facts = {
        "classes": ["a", "b"],
        "hyperparameters": {"dropout": 0.0},
        "preprocessing": network.preprocessing,
        "config": network.config,
    }
    again = object_detection.rebuild(SMALL, facts)
    again.load_state_dict(network.state_dict())
    assert again.preprocessing == network.preprocessing
