"""What people call a metric."""

import pytest

from components.core.contract.metric_names import heading, label


@pytest.mark.parametrize(
    ("name", "in_a_sentence", "at_its_begin"),
    [
        ("accuracy", "accuracy", "Accuracy"),
        ("balanced_accuracy", "balanced accuracy", "Balanced accuracy"),
        ("micro_f1", "micro F1", "Micro F1"),
        ("ndcg_at_10", "NDCG@10", "NDCG@10"),
        ("hit_rate_at_10", "hit rate@10", "Hit rate@10"),
        ("map", "mAP", "mAP"),
        ("map_small", "mAP small", "mAP small"),
        ("mean_average_precision", "mAP", "mAP"),
        ("box_f1", "F1", "F1"),
        ("r2", "R²", "R²"),
        ("mae", "mean absolute error", "Mean absolute error"),
        ("my_own_metric", "my own metric", "My own metric"),
    ],
)
def test_a_metric_has_a_name_for_people(name: str, in_a_sentence: str, at_its_begin: str) -> None:
    """Abbreviations are written as the field writes them, and other names as words."""
    assert (label(name), heading(name)) == (in_a_sentence, at_its_begin)
