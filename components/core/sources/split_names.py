"""Names of splits: ours, those in manifests, and those of folders."""

SPLITS = ("train", "validation", "calibrate", "test")
SPLIT_OF_FOLDER = {  # what folders of splits are called, and which split that is
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout"), "test"),
}
_SYNONYMS = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "testing": "test",
}


def split_name(text: str) -> str:
    """The split that a manifest means; empty stays empty.

    Raises:
        ValueError: It is no split.
    """
    name = text.strip().lower()
    name = _SYNONYMS.get(name, name)
    if name and name not in SPLITS:
        raise ValueError(f"split {text!r} is not train, validation or test")
    return name
