"""The benchmark against peers: its arithmetic, its tables, and that the plain loop and Thawline train the same."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks import top
from tests.benchmarks.compare import __main__
from tests.benchmarks.compare.data import chosen, read_idx
from tests.benchmarks.compare.jobs import Job, Options, groups
from tests.benchmarks.compare.picture import picture
from tests.benchmarks.compare.rows import Spread, compared, own_best, phase_figures, priced, ratios, reached
from tests.benchmarks.compare.table import as_json, markdown, sections
from tests.benchmarks.volume import copies, prepare_20000


def record(system: str, repetition: int, seconds: float, accuracy: float = 0.8) -> dict[str, Any]:
    """A run of the head phase and, for a peer, of two thawed stages."""
    marks = {"head": {"seconds": seconds, "accuracy": accuracy}}
    if system != "thawline":
        marks["thaw2"] = {"seconds": 2 * seconds, "accuracy": accuracy}
    return {
        "kind": "phases",
        "system": system,
        "data": "fashion",
        "settings": {"head_epochs": 10, "thaw_epochs": 1},
        "thaws": [],
        "repetition": repetition,
        "result": {"marks": marks, "anonymous": 100.0, "before": 50.0, "resident": 200.0},
    }


def test_a_ratio_is_taken_within_a_repetition() -> None:
    """A repetition that ran on a slow machine gives the same ratio, and one without a partner gives none."""
    assert ratios({0: 10.0, 1: 30.0, 2: 5.0}, {0: 2.0, 1: 6.0}) == [5.0, 5.0]


def test_a_spread_is_median_least_and_greatest() -> None:
    """Three values show all of their range, one value only itself, none nothing."""
    spread = Spread.of([3.0, 1.0, 2.0])
    assert spread == Spread(2.0, 1.0, 3.0)
    assert spread.text(1) == "2.0 [1.0-3.0]"
    assert Spread(2.0, 2.0, 2.0).text(2) == "2.00"
    assert Spread.of([]) is None


def test_a_peer_slower_than_the_plain_loop_is_flagged() -> None:
    """More than 1.3 times the plain loop's time asks for other settings; Thawline is never asked."""
    records = [record("plain", 0, 10.0), record("fastai", 0, 14.0), record("lightning", 0, 12.0)]
    figures = phase_figures([*records, record("thawline", 0, 20.0)])
    rows = {row["system"]: row for row in compared(figures["fashion", "head, 10 epochs"])}
    assert {system: row["slow"] for system, row in rows.items()} == {
        "thawline": False,
        "plain": False,
        "fastai": True,
        "lightning": False,
    }
    assert rows["fastai"]["ratio"].median == pytest.approx(0.7)


def test_thawlines_thawed_run_says_nothing_of_its_head() -> None:
    """The head of a run that goes on to thaw is left to the run that ends with it."""
    thawed = record("thawline", 0, 5.0)
    thawed["thaws"] = [2]
    thawed["result"]["marks"]["thaw2"] = {"seconds": 9.0, "accuracy": 0.9}
    found = phase_figures([thawed])
    assert list(found) == [("fashion", "head, 10 epochs, then 2 stages thawed, 1 epoch")]


def test_seconds_count_until_a_curve_is_at_its_target() -> None:
    """The first point at or above the accuracy counts; a curve that stays below never arrives."""
    curve = [(1.0, 0.5), (2.0, 0.7), (3.0, 0.6), (4.0, 0.9)]
    assert reached(curve, 0.7) == 2.0
    assert reached(curve, 0.95) is None


def test_each_peer_is_met_at_its_own_best_accuracy() -> None:
    """Thawline's time to a peer's best is set against the peer's own; the better of the bests holds for all."""

    def run(system: str, curve: list[tuple[float, float]]) -> dict[str, Any]:
        return {"kind": "defaults", "system": system, "data": "fashion", "result": {"curve": curve}}

    runs = {
        0: {
            "thawline": run("thawline", [(1.0, 0.7), (2.0, 0.85)]),
            "fastai": run("fastai", [(10.0, 0.8), (20.0, 0.6)]),
            "lightning": run("lightning", [(6.0, 0.7)]),
        }
    }
    rows = {(row["target"], row["system"]): row for row in own_best(runs)}
    assert rows["fastai's best", "fastai"]["ratio"].median == 5.0
    assert rows["lightning's best", "lightning"]["ratio"].median == 6.0
    assert rows["the better of their best", "lightning"]["reached"] == "0 of 1"


def test_trials_that_did_not_run_are_priced_by_depth() -> None:
    """Each trial costs its own epochs at its own depth."""
    trials = [
        {"thaw": 1, "head_epochs": 10, "thaw_epochs": 2},
        {"thaw": 3, "head_epochs": 4, "thaw_epochs": 0},
    ]
    assert priced(trials, {"0": 2.0, "1": 3.0, "3": 100.0}, fixed=1.0) == 1 + 14 * 2 + 2 * 3


def test_the_tables_hold_every_ratio_and_a_warning() -> None:
    """Markdown, JSON and picture come from the same rows."""
    records = [
        record(s, r, t * (r + 1)) for r in range(3) for s, t in [("thawline", 2.0), ("plain", 8.0), ("fastai", 12.0)]
    ]
    found = list(sections(records, []))
    text = markdown(found, ["two cores"])
    assert "| head, 10 epochs | plain | 16.00 [8.00-24.00] | 4.00 | 0.8000 |" in text
    assert "fastai (slow)" in text
    assert "mend its settings" in text
    tables = as_json(found, {}, records)["tables"]
    ratio = {"median": 6.0, "low": 6.0, "high": 6.0}
    assert ratio in [row["times Thawline's"] for row in tables[0]["rows"]]
    assert picture(records).startswith("<svg")


def test_a_run_is_not_available_until_it_says_skipped() -> None:
    """Seconds of a second run that trained again are no seconds of a skipped one."""

    def text(status: str) -> str:
        result = {"first": {"seconds": 60.0}, "second": {"seconds": 3.0, "status": status}}
        run = {"kind": "skip", "system": "thawline", "data": "fashion", "repetition": 0, "result": result}
        return markdown(list(sections([run], [])), [])

    assert "| 60.00 | not available |" in text("succeeded")
    assert "| 60.00 | 3.00 |" in text("skipped")


def test_every_part_brings_its_runs() -> None:
    """Without a part none of its runs is planned; a depth of Thawline's is a run of its own."""
    options, _, _ = __main__.parsed(["--parts", "1,2", "--data", "fashion"])
    planned = [job for group in groups(options) for job in group]
    assert {job.system for job in planned} == {"thawline", "plain", "plain-kept", "fastai", "lightning"}
    assert [job.thaws for job in planned if job.system == "thawline"] == [(), (1,), (2,), (3,), ()]
    assert {job.kind for job in planned} == {"phases"}
    everything, _, _ = __main__.parsed(["--data", "fashion"])
    kinds = {job.kind for group in groups(everything) for job in group}
    assert kinds == {"phases", "defaults", "search", "week", "skip", "limit"}


def test_systems_alternate_and_begin_in_turn() -> None:
    """No repetition starts with the system of the one before, and each has a seed of its own."""
    options, _, _ = __main__.parsed(["--parts", "1", "--data", "fashion", "--head-epochs", "10", "--repetitions", "2"])
    runs = list(__main__.turns(options))
    first = [job.system for repetition, job in runs if repetition == 0]
    second = [job.system for repetition, job in runs if repetition == 1]
    assert sorted(first) == sorted(second)
    assert first[0] != second[0]
    assert {job.settings["seed"] for _, job in runs} == {0, 1}


@pytest.mark.slow
def test_an_interrupted_benchmark_runs_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept runs are read again, and a line that a kill cut off is passed over."""
    ran: list[str] = []

    def fake(job: Job, _options: Options) -> dict[str, Any]:
        ran.append(job.system)
        return dict(record(job.system, 0, 1.0)["result"])

    monkeypatch.setattr(__main__, "run", fake)
    monkeypatch.setattr(__main__, "machine", lambda _records: dict.fromkeys(ABOUT, ""))
    arguments = ["compare", "--parts", "1", "--data", "fashion", "--head-epochs", "10", "--repetitions", "1"]
    monkeypatch.setattr("sys.argv", [*arguments, "--output", str(tmp_path)])
    __main__.main()
    assert sorted(ran) == ["fastai", "lightning", "plain", "plain-kept", "thawline"]
    kept = tmp_path / "compare.jsonl"
    kept.write_text("\n".join([*kept.read_text().split("\n\n")[:4], '{"key": "cut o']))
    ran.clear()
    __main__.main()
    assert len(ran) == 1
    __main__.main()
    assert len(ran) == 1
    assert len(json.loads((tmp_path / "compare.json").read_text())["runs"]) == 5


ABOUT = (
    "cores",
    "machine",
    "python",
    "torch",
    "timm",
    "fastai",
    "lightning",
    "optuna",
    "revision",
    "runs",
    "first",
    "last",
)


def test_more_training_pictures_hold_the_fewer() -> None:
    """Sets are nested, classes balanced, and validation never meets training."""
    labels = np.random.default_rng(1).integers(0, 10, 1000)
    small, validation = chosen(1000, labels, 100, 50)
    large, same = chosen(1000, labels, 300, 50)
    assert small.tolist() == large[:100].tolist()
    assert validation.tolist() == same.tolist()
    assert not set(large) & set(validation)
    assert np.bincount(labels[small], minlength=10).tolist() == [10] * 10


def test_idx_files_are_read(tmp_path: Path) -> None:
    """Pictures and labels come in the shapes that their headers tell."""
    rows = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in rows.shape)
    (tmp_path / "pictures.gz").write_bytes(gzip.compress(header + rows.tobytes()))
    (tmp_path / "labels.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9])))
    assert np.array_equal(read_idx(tmp_path / "pictures.gz"), rows)
    assert read_idx(tmp_path / "labels.gz").tolist() == [7, 9]


def test_depthwise_layers_count_as_depthwise() -> None:
    """A step is forward, weight gradient and input gradient, without the input gradient of the lowest layer."""
    import torch
    from torch import nn

    from components.core.networks.network import Network
    from tests.benchmarks.compare.limit import top

    below, depthwise = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    network = Network([below, depthwise], nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 5)), {})
    in_depthwise, in_head = 2 * 4 * 8 * 16 * 9, 2 * 4 * 8 * 16 * 5  # two operations a product, batch of 4
    assert top(network, torch.zeros(4, 8, 4, 4), 1) == (
        in_depthwise + in_head,
        2 * in_depthwise + 3 * in_head,
    )
    assert top(network, torch.zeros(4, 8, 4, 4), 0) == (in_head, 2 * in_head)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Sixty pictures in three classes that a head can tell apart, prepared."""
    from components.core.data.lineage import Lineage
    from components.core.data.preparation import prepare
    from components.core.settings import Settings

    generator = np.random.default_rng(0)
    for number in range(60):
        pixels = generator.integers(0, 80, (32, 32, 3), dtype=np.uint8)
        pixels[:, :, number % 3] += 120
        path = tmp_path / "in" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    prepare(str(tmp_path / "in"), Settings(), tmp_path / "dataset", Lineage("0"), lambda *_: None)
    return tmp_path / "dataset"


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_the_plain_loop_and_thawline_train_the_same(tiny: Path) -> None:
    """Same recipe, same batches: head phase and thawed phase end with the same weights up to rounding."""
    import torch

    from components.core.fitting.data import open_data
    from components.core.training.phase import build_network, train_phase
    from tests.benchmarks.compare import plain
    from tests.benchmarks.compare.recipe import Tester, peer_network, pictures_of, settings_of

    settings = settings_of(32, 2, 1, batch_size=16)
    chosen, data = settings.defaults(), open_data(tiny, settings)
    own, peer = build_network(data, chosen), peer_network(data, chosen)
    tester, pictures = Tester(data, own.preprocessing, keep=False), pictures_of(data, own.preprocessing)
    before = own.head[1].weight.detach().clone()
    for thaw in (0, 2):
        ours = train_phase(own, data, chosen, thaw=thaw)
        theirs = plain.train_phase(peer, pictures, settings, chosen, thaw)
        assert [epoch["loss"] for epoch in ours] == pytest.approx([epoch["loss"] for epoch in theirs], rel=1e-3)
        line = len(own.stages) - thaw
        assert tester.accuracy(own, line) == tester.accuracy(peer, line)
        torch.testing.assert_close(own.head[1].weight, peer.head[1].weight, rtol=0, atol=2e-4)
    assert (own.head[1].weight - before).abs().max() > 1e-3


def test_the_benchmark_of_preparing_data_is_a_task(tmp_path: Path) -> None:
    """Its module still has what preparing data asks of a task, and every picture becomes an example."""
    (tmp_path / "in").mkdir()
    prepare_20000.generate(tmp_path / "in", 80)
    assert prepare_20000.timed(tmp_path / "in", 80, tmp_path / "out")["examples"] == 80


def test_the_benchmark_of_copies_measures_every_kind(tmp_path: Path) -> None:
    """Each kind of rows is indexed and prepared, those that contradict each other too."""
    copies.generate(tmp_path)
    for kind in copies.LABELS:
        assert copies.timed(tmp_path, kind, 300)["prepare"] > 0


def test_the_step_of_the_top_is_the_one_that_training_takes() -> None:
    """Both ways run by training's own loop; the operations are counted by the convolutions' definition."""
    measured = top.Top("torchvision/resnet18", 1, batch=2, size=32)
    assert all(measured.milliseconds(1, top.CLOCKS["cpu"], fast=fast) > 0 for fast in (False, True))
    weights, first = 8_392_704, 1_310_720  # of layer4's convolutions, and of those that need no gradient of their input
    assert measured.operations() == pytest.approx(2 * 2 * (3 * weights - first), rel=0.01)  # two rows of one output
