"""What splits are called."""

import pytest

from components.core.data.splits import SHARES
from components.core.sources.split_names import SPLITS, split_name


def test_every_split_has_a_share() -> None:
    """What a manifest can name is what examples are assigned to."""
    assert tuple(SHARES) == SPLITS


@pytest.mark.parametrize(
    ("text", "name"),
    [("", ""), (" Train ", "train"), ("val", "validation"), ("valid", "validation"), ("dev", "validation")],
)
def test_split_names_have_synonyms(text: str, name: str) -> None:
    assert split_name(text) == name


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="'holdout' is not train, validation or test"):
        split_name("holdout")
