"""The facts of a dataset travel as `dataset.json`."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.core.data.dataset_info import FILE, DatasetInfo


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """The facts come back as they were, and the file is canonical JSON of all of them."""
    info = DatasetInfo(classes=["a", "b"], digest="d", counts={"train": {"b": 1, "a": 2}}, options={"mono": "1"})
    info.write(tmp_path)
    assert DatasetInfo.read(tmp_path) == info
    text = (tmp_path / FILE).read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert json.loads(text).keys() == DatasetInfo.model_fields.keys()


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """A file without the facts that later versions added is read, and one with a fact that this version lacks."""
    (tmp_path / FILE).write_text('{"classes":["a"],"digest":"d","number":3,"melted":true}')
    assert DatasetInfo.read(tmp_path) == DatasetInfo(classes=["a"], digest="d", number=3)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    """Without classes and a digest there is no dataset."""
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ValidationError, match="classes"):
        DatasetInfo.read(tmp_path)
