"""The notebook of the documentation runs as it stands, on the demo photos.

Its cells are executed here, one by one in one namespace, as a kernel of Jupyter does: no Jupyter has to be installed.
"""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import ROOT

NOTEBOOK = ROOT / "docs/look-inside.ipynb"
DEMO = ROOT / ".thawline/demo/stamps"


def cells(kind: str) -> list[str]:
    """The sources of the notebook's cells of a kind."""
    return ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def run_cell(source: str, namespace: dict[str, Any]) -> Any:
    """Run a cell; return what Jupyter would show below it: the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), namespace)  # noqa: S102 - our own notebook
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), namespace)  # noqa: S307 - as above


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains, reads the activations, fits a head that is far above chance, and shows mistakes and the report."""
    if not DEMO.exists():
        pytest.skip("no demo photos here: make run")
    (tmp_path / ".thawline/demo").mkdir(parents=True)
    (tmp_path / ".thawline/demo/stamps").symlink_to(DEMO.resolve())
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("THAWLINE_HOME", "")  # put back after the test: the notebook sets it
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    namespace: dict[str, Any] = {}
    run, shapes, score, figures, mistakes, sheet, shown = [run_cell(source, namespace) for source in cells("code")]
    assert run[:2] == ("succeeded", "1")
    assert (shapes["train"][1], shapes["train"][0] > 150) == (shapes["test"][1], True)
    assert score > 2 * 0.2  # the trivial model's accuracy
    assert figures["accuracy"] > 2 * 0.2
    assert set(mistakes.columns) == {"name", "truth", "label", "probability"}
    assert (mistakes["truth"] != mistakes["label"]).all()
    assert len(sheet.convert("RGB").getcolors(1 << 20)) > 100  # it is not blank
    assert "<iframe" in shown._repr_html_()


def test_the_notebook_is_valid() -> None:
    """It has the fields of the format 4.5, unique cell ids, and shows what a reader of the repository should see."""
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert NOTEBOOK.stat().st_size < 150_000
    shown = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(shown[:-1])  # the report itself is too large to be kept in it
