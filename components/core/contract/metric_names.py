"""Names of metrics for people, by the names that MLflow and scripts know them by."""

import re

# What is not made of words, or is no word of a sentence. Other names are their own words.
WORDS = {
    "ap": "AP",
    "auc": "AUC",
    "brier": "Brier score",
    "ece": "calibration error",
    "f1": "F1",
    "iou": "IoU",
    "mae": "mean absolute error",
    "map": "mAP",
    "map50": "mAP50",
    "map75": "mAP75",
    "mrr": "MRR",
    "ndcg": "NDCG",
    "r2": "R²",
    "rmse": "root mean squared error",
}
NAMES = {"mean_average_precision": "mAP", "box_f1": "F1", "box_precision": "precision", "box_recall": "recall"}


def label(name: str) -> str:
    """A metric in a sentence: `ndcg_at_10` is NDCG@10, `macro_f1` macro F1, `accuracy` accuracy."""
    if name in NAMES:
        return NAMES[name]
    return re.sub(r" at (?=\d)", "@", " ".join(WORDS.get(word, word) for word in name.split("_")))


def heading(name: str) -> str:
    """A metric at the begin of a line: the first letter is a capital one where the word has none."""
    text = label(name)
    word = text.split(" ", maxsplit=1)[0]
    return text if word != word.lower() else text[:1].upper() + text[1:]
