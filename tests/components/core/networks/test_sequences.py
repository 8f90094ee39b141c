"""Networks over histories: what a step sees, what is masked, and who learns."""

import pytest
import torch
from torch import nn

from components.core.networks.network import Network, set_thawed, set_training
from components.core.networks.sequences import Embedding, ItemFeatures, Scores, Sizes, build_stages

SIZES = Sizes(width=8, blocks=2, heads=2, length=5, block_dropout=0.0, embedding_dropout=0.0, item_dropout=0.0)
KINDS = pytest.mark.parametrize("kind", ["sasrec", "gru4rec"])


def network(kind: str) -> Network:
    torch.manual_seed(0)
    embedding, blocks = build_stages(kind, 9, SIZES)
    head = Scores(embedding, 0.0)
    nn.init.normal_(head.bias)
    return Network([embedding, *blocks], head, {})


@KINDS
def test_a_step_sees_nothing_later(kind: str) -> None:
    """Scores of a step in training don't change with later items."""
    one = network(kind).train()
    early, late = torch.tensor([[0, 1, 3, 4, 5]]), torch.tensor([[0, 1, 3, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(one(early)[:, :3], one(late)[:, :3])
        assert not torch.allclose(one(early)[:, 3:], one(late)[:, 3:])


@KINDS
def test_answers_score_the_next_item_without_those_had(kind: str) -> None:
    """All of the history is masked, also what lies before the steps that the network sees."""
    one = network(kind)
    items = torch.tensor([[2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 0, 1]])
    with torch.no_grad():
        found = one.eval()(items)
        steps = one.train()(items)
    assert (found == -torch.inf).sum(1).tolist() == [7, 0]
    assert torch.allclose(found[1], steps[1, -1])
    assert torch.allclose(found[0, 7:], steps[0, -1, 7:])


@KINDS
def test_padding_does_not_matter(kind: str) -> None:
    """A history scores the same however wide its row is."""
    one = network(kind).eval()
    with torch.no_grad():
        assert torch.allclose(one(torch.tensor([[0, 0, 0, 1, 4]])), one(torch.tensor([[0, 0, 0, 0, 0, 0, 1, 4]])))


@pytest.mark.parametrize(("thaw", "learning"), [(0, "head.added"), (2, "head.added"), (3, "stages.0.items")])
def test_the_head_learns_items_where_the_embedding_is_frozen(thaw: int, learning: str) -> None:
    """Thawed, the embedding alone learns what an item is; frozen, it keeps its weights and the head learns."""
    one = network("sasrec")
    line = set_thawed(one, thaw)
    set_training(one, line)
    one.above(one.below(torch.tensor([[0, 1, 2, 3, 4]]), line), line).sum().backward()
    learned = {name for name, parameter in one.named_parameters() if parameter.grad is not None}
    assert learning in learned
    assert len(learned & {"head.added", "stages.0.items"}) == 1


def test_the_embedding_is_no_part_of_the_head() -> None:
    """The optimizer's groups and the stages' digests count it once."""
    one = network("sasrec")
    assert {name for name, _ in one.head.named_parameters()} == {"added", "bias"}
    assert "stages.0.items" in one.state_dict()


def test_an_item_is_its_own_vector_and_the_mean_of_its_features() -> None:
    """Items without features have their own vector alone; both are learned, and score items as well."""
    of = torch.tensor([[1, 2], [2, 0], [0, 0]])
    embedding = Embedding(3, SIZES, ItemFeatures(of, 2))
    assert embedding.features is not None
    own, features = embedding.items, embedding.features
    expected = torch.stack([own[0] + features.mean(0), own[1] + features[1], own[2]])
    assert torch.allclose(embedding.table(), expected)
    head = Scores(embedding, 0.0).eval()
    hidden = torch.ones(1, 1, 8)
    scores = head({"items": torch.zeros(1, 1, dtype=torch.int64), "hidden": hidden})
    assert torch.allclose(scores[0], expected.sum(1))
    scores[0, 1].backward()
    assert features.grad is not None
    assert features.grad.sum(1).tolist() == [0, 8]


def test_training_scores_the_last_steps_alone_where_they_are_asked() -> None:
    """Steps that no target is known for are not scored; the others get the same scores."""
    one, items = network("sasrec").train(), torch.tensor([[0, 1, 3, 4, 5]])
    hidden = one.below(items, 3)
    few = Scores(one.stages[0], 0.0, asked=2).train()  # type: ignore[arg-type]  # a stage of any kind
    few.load_state_dict(one.head.state_dict())
    assert torch.equal(few(hidden), one.head(hidden)[:, -2:])
