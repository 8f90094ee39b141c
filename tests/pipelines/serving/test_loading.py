"""A version loaded to be served."""

from pathlib import Path

import pytest
import torch

from components.core.registry.serving import agree
from components.core.tracking.service import connection
from pipelines.serving import loading
from tests.support.plain import PlainRun

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_onnx_runtime_computes_what_it_computes_faster(
    engine: str, toy_run: PlainRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The answers are the same by either engine."""
    import pandas as pd

    connection.open_store()
    monkeypatch.setattr(
        loading, "_seconds", lambda graph, *_: isinstance(graph, torch.nn.Module) == (engine == "onnxruntime")
    )
    records = [b"2,0", b"-1,1.7", b"-1,-1.7"]
    expected = loading.load("toy", "1", 1, exported=False)
    found = loading.load("toy", "champion", 1)
    assert (found.version, expected.engine.split()[0]) == ("1", "torch")
    assert found.engine.split()[0] == engine
    assert agree(pd.DataFrame(found.answer(records)), pd.DataFrame(expected.answer(records)))
    assert "could not convert" in str(found.answer([b"2,0", b"x"])[1])
