"""The whole pipeline on real photos with real pretrained weights, as `make run` runs it."""

import json
import subprocess
from pathlib import Path

import pytest

from pipelines.local.demo import CLASSES
from tests.support.command import on_all_cores

pytestmark = pytest.mark.slow


def test_the_photos_are_all_there(photos: Path) -> None:
    """The demo holds 312 photos in 8 classes."""
    counts = {folder.name: len(list(folder.glob("*.png"))) for folder in photos.iterdir()}
    assert set(counts) == set(CLASSES)
    assert sum(counts.values()) == 312


def test_a_champion_comes_out(demo_run: tuple[dict, Path]) -> None:
    """The first model is far above the majority class and becomes champion."""
    result, _ = demo_run
    assert (result["status"], result["version"], result["promoted"]) == ("succeeded", "1", True)
    # 46 photos: far enough below what is usual (0.84 and more) that chance hardly fails it
    assert result["metrics"]["accuracy"] > 0.7
    assert result["metrics"]["accuracy_low"] > 2 * result["metrics"]["baseline_accuracy"]


def test_the_champion_answers_files(demo_run: tuple[dict, Path], photos: Path) -> None:
    """`thawline predict` answers real files from the registry, mostly right."""
    _, home = demo_run
    files = [str(next((photos / name).glob("*.png"))) for name in sorted(CLASSES)]
    done = on_all_cores("predict", "--model", "stamps", *files, "--json", home=home)
    assert done.status == 0, done.err
    labels = [row["label"] for row in json.loads(done.out)["predictions"]]
    assert sum(label == name for label, name in zip(labels, sorted(CLASSES), strict=True)) >= 6


def test_the_report_draws_in_a_browser(demo_run: tuple[dict, Path], tmp_path: Path) -> None:
    """A real browser shows the report's sections, and its picture is not blank."""
    from shutil import which

    from PIL import Image

    chromium = which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    result, _ = demo_run
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    shot = tmp_path / "report.png"
    page = Path(result["report"]).as_uri()
    subprocess.run(
        [chromium, *flags, "--window-size=1280,2400", f"--screenshot={shot}", page],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as picture:
        assert picture.size == (1280, 2400)
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 500
    dumped = subprocess.run([chromium, *flags, "--dump-dom", page], check=True, capture_output=True, timeout=120)
    for heading in ("The numbers", "Most confident mistakes", "Learning curves", "The search"):
        assert heading.encode() in dumped.stdout


def test_the_classic_recipe_runs(photos: Path, tmp_path: Path) -> None:
    """The tutorial's recipe is one command: ResNet-50 frozen, the classic head, Adam, then the last stage thawed.

    Random weights stand in for the hub's, and few small photos for many: what is tested is that the recipe runs.
    """
    few = tmp_path / "few"
    for name in sorted(CLASSES)[:2]:
        (few / name).mkdir(parents=True)
        for photo in sorted((photos / name).glob("*.png"))[:16]:
            (few / name / photo.name).symlink_to(photo)
    recipe = "--backbone torchvision/resnet50 --head mlp --hidden 512 --dropout 0.2 --optimizer adam"
    recipe += " --head-learning-rate 0.003 --weight-decay 0 --label-smoothing 0 --thaw 1 --thaw-learning-rate 0.0003"
    short = "--weights none --image-size 64 --head-epochs 3 --thaw-epochs 1 --trials 0"
    home = tmp_path / "home"
    done = on_all_cores("run", str(few), *recipe.split(), *short.split(), "--json", home=home)
    assert done.status == 0, done.err
    result = json.loads(done.out.splitlines()[-1])
    assert result["status"] == "succeeded"
    checkpoint = next((home / "runs").rglob("checkpoint.json"))
    facts = json.loads(checkpoint.read_text())
    assert facts["settings"]["head"] == "mlp"
    assert len(facts["stage_digests"]) == 6  # stem, four groups of blocks, head
