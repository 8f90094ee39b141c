"""The benchmark of quality: its sets, its linear probe, its tables, and that it goes on where it was stopped."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.quality import run as quality
from tests.benchmarks.quality.probe import log_loss, probe
from tests.benchmarks.quality.sets import DataSet
from tests.benchmarks.quality.table import markdown
from tests.data.picture_sets import qt_resources, write_pictures
from tests.data.pictures import write_pictures as write_toy


def record(data: str, salt: int, contender: str, accuracy: float, **more: Any) -> dict[str, Any]:
    """One result, as the benchmark keeps it."""
    facts = {"data": data, "salt": salt, "contender": contender, "accuracy": accuracy, "log_loss": 1 - accuracy}
    facts |= {"seconds": 10.0, "cpu_seconds": 12.0, "revision": "0123456789abcdef", "finished": "2026-01-01 00:00"}
    return {**facts, **more}


def test_a_class_keeps_the_least_hashes_and_each_content_once(tmp_path: Path) -> None:
    """A set does not change with the order of files, and a copy under another name or class is left out."""
    pictures = [("a", f"{i}.png", bytes([i])) for i in range(9)] + [("b", "copy.png", bytes([3])), ("b", "b.png", b"b")]
    write_pictures(iter(pictures), tmp_path / "one", most=4)
    write_pictures(iter(pictures[:9][::-1] + pictures[9:]), tmp_path / "two", most=4)
    found = [sorted(str(file.relative_to(root)) for file in root.rglob("*.png")) for root in tmp_path.iterdir()]
    assert found[0] == found[1]
    assert len(found[0]) == 5
    assert "b/copy.png" not in found[0]


def test_a_qt_resource_file_is_read() -> None:
    """Folders are walked by their children's numbers; contents come plain or unpacked."""
    names = [struct.pack(">HI", len(name), 0) + name.encode("utf-16-be") for name in ("in", "a.webp")]
    content = b"RIFF picture"
    nodes = [
        struct.pack(">IHIIQ", 0, 2, 1, 1, 0),
        struct.pack(">IHIIQ", 0, 2, 1, 2, 0),
        struct.pack(">IHHHIQ", len(names[0]), 0, 0, 0, 0, 0),
    ]
    parts = [b"".join(nodes), struct.pack(">I", len(content)) + content, b"".join(names)]
    places = np.cumsum([20, len(parts[0]), len(parts[1])]).tolist()
    raw = b"qres" + struct.pack(">4i", 2, *places) + b"".join(parts)
    assert list(qt_resources(raw)) == [("/in/a.webp", content)]


def test_the_probe_finds_what_is_linear() -> None:
    """Classes that one direction tells apart are told apart, whatever the scale of the features."""
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = generator.standard_normal((90, 8)).astype(np.float32)
    features[:, 0] += 10 * labels
    features *= 1e4
    found = probe(features, labels, np.arange(60), np.arange(60, 90))
    assert found.accuracy == 1.0
    assert found.log_loss < 0.5


def test_log_loss_of_even_odds() -> None:
    """A coin gives the logarithm of two; a zero where it was right stays finite."""
    assert log_loss(np.full((4, 2), 0.5), np.array([0, 1, 1, 0])) == pytest.approx(np.log(2))
    assert np.isfinite(log_loss(np.array([[1.0, 0.0]]), np.array([1])))


def test_a_row_is_mean_and_standard_error() -> None:
    """The table shows both over the salts, and how often thawing helped."""
    runs = [record("stamps", salt, "defaults", 0.8 + salt / 10, helped=salt > 0) for salt in range(3)]
    assert "| stamps | defaults | 3 | 0.900 ± 0.058 | 0.100 ± 0.058 | 10 | 12 | 2 of 3 |" in markdown(runs)


def test_differences_are_paired_and_sets_count_alike() -> None:
    """Each set has its line; in that of all, a set with more salts weighs no more, and runs alone are left out."""
    ours = [record("a", 0, "defaults", 0.9), record("a", 1, "defaults", 0.7), record("b", 0, "defaults", 0.5)]
    theirs = [record("a", 0, "probe", 0.8), record("a", 1, "probe", 0.6), record("b", 0, "probe", 0.2)]
    text = markdown([*ours, *theirs, record("b", 1, "probe", 0.1)])
    assert "| probe | a | +0.100 ± 0.000 | -0.100 ± 0.000 | 2 salts |" in text
    assert "| probe | b | +0.300 | -0.300 | 1 salt |" in text
    assert "| probe | all | +0.200 ± 0.100 | -0.200 ± 0.100 | 2 sets |" in text
    assert "Revision 0123456789ab" in text


def test_the_cpu_time_of_orphans_counts() -> None:
    """A process that outlives the command that started it, as a fork server does, is waited for and counted."""
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}]); print('done')"
    line, spent = quality.called(["-c", leave])
    assert line == "done"
    assert spent["cpu_seconds"] > 0.5


def test_peers_take_part_where_they_can() -> None:
    """Pictures are for fastai, texts for TF-IDF, all sets for everybody else; salts come one after the other."""
    options = quality.parsed(["--sets", "stamps", "fortunes", "voices", "--salts", "2"])
    planned = list(quality.jobs(options))
    assert [job.salt for job in planned] == sorted(job.salt for job in planned)
    contenders = {name: {job.contender for job in planned if job.data == name} for name in options.sets}
    everybody = {"probe", "head", "defaults", "search"}
    assert contenders["stamps"] == everybody | {"fastai-5", "fastai-10"}
    assert contenders["fortunes"] == everybody | {"tfidf"}
    assert contenders["voices"] == everybody


def test_an_interrupted_benchmark_runs_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result is kept at once; other options are measured anew."""
    ran: list[str] = []

    def fake(job: quality.Job, _options: quality.Options) -> dict[str, Any]:
        if job.contender == "search":
            raise KeyboardInterrupt
        ran.append(job.contender)
        return {"accuracy": 0.5, "log_loss": 1.0, "seconds": 1.0, "cpu_seconds": 1.0}

    monkeypatch.setattr(quality, "run", fake)
    arguments = ["quality", "--sets", "stamps", "--salts", "1", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*arguments, "--contenders", "probe", "head", "search"])
    with pytest.raises(KeyboardInterrupt):
        quality.main()
    assert ran == ["probe", "head"]
    monkeypatch.setattr("sys.argv", [*arguments, "--contenders", "probe", "head", "defaults"])
    quality.main()
    assert ran == ["probe", "head", "defaults"]
    monkeypatch.setattr("sys.argv", [*arguments, "--contenders", "probe", "--image-size", "160"])
    quality.main()
    assert ran == ["probe", "head", "defaults", "probe"]
    assert len(json.loads((tmp_path / "quality.json").read_text())) == 4


@pytest.mark.slow
def test_the_probe_and_thawline_run_on_the_same_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both learn toy pictures from the command line's splits, and Thawline says whether thawing helped."""
    source = write_toy(tmp_path / "toy", per_class=20)
    options = quality.Options(("toy",), 1, ("probe", "defaults"), 0, 32, tmp_path / "out")
    options.output.mkdir()
    small = {"weights": "package:efficientnet-lite0", "head_epochs": 2, "thaw_epochs": 1}
    monkeypatch.setitem(quality.DATA, "toy", DataSet("picture", lambda _: source, lambda _: small))
    found = {job.contender: quality.run(job, options) for job in quality.jobs(options)}
    assert found["probe"]["accuracy"] > 0.9
    assert found["defaults"]["helped"] in (True, False)
    assert found["defaults"]["seconds"] > sum(found["defaults"]["steps"].values())
    assert list(options.output.glob("home-*")) == []
