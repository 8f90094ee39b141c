"""Equal values have equal digests."""

import hashlib
from pathlib import Path

from components.core.digests import canonical_json, digest, of_file, of_rows


def test_canonical_json_ignores_order() -> None:
    """Equal values give equal text whatever the order of their keys."""
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'


def test_a_digest_is_that_of_the_canonical_text() -> None:
    """A value's digest is the sha256 of its canonical JSON; of rows, of a line for each."""
    assert digest({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    assert of_rows([("a", 1), ["b"]]) == hashlib.sha256(b'["a",1]\n["b"]\n').hexdigest()


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    """What `sha256sum` prints."""
    (tmp_path / "file").write_bytes(b"\0thaw")
    assert of_file(tmp_path / "file") == hashlib.sha256(b"\0thaw").hexdigest()
