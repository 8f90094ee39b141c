"""Settings travel through the DAG as text and are told apart by digest."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ValidationError

from components.core.digests import digest
from components.core.settings import OPERATIONAL, Hyperparameters, Option, Settings, marks


def test_json_round_trip() -> None:
    """Settings come back from their JSON as they were."""
    settings = Settings(model="m", thaw=2, dropout=0.1, head="mlp")
    assert Settings.from_json(settings.to_json()) == settings


def test_digest_changes_with_what_changes_a_result() -> None:
    """A setting that can change the model changes the digest."""
    assert Settings(thaw=1).digest() != Settings(thaw=2).digest()


@pytest.mark.parametrize(
    "change", [{"search_workers": 7}, {"activations": "recompute"}, {"max_rejected": 0.5}, {"promote": "manual"}]
)
def test_digest_ignores_operation(change: dict[str, object]) -> None:
    """Where and how fast a run computes stays out of the digest."""
    assert set(change) <= OPERATIONAL
    assert Settings(**change).digest() == Settings().digest()


def test_digests_are_those_of_earlier_versions() -> None:
    """The digests of settings stay as they were recorded: with others, every model of every user trains once more."""
    chosen = Settings(model="stamps", thaw=2, gate="non-inferiority", promote="manual", option={"max_length": "64"})
    found = [text[:16] for s in (Settings(), chosen) for text in (s.digest(), s.gate_digest(), digest(s.training()))]
    defaults, others = found[:3], found[3:]
    assert defaults == ["853a9e02b7f4a458", "64e2d44a06a757d6", "3cc720cf1905973a"]
    assert others == ["d54cff508abd2752", "c611da3eaa7d053c", "25d0d0f9aa0b5ad9"]


def test_an_option_without_its_mark_is_refused() -> None:
    """A field that does not say its panel and what it affects is no option: nobody can forget to decide."""

    class Forgetful(BaseModel):
        thaw: Annotated[int, Option("Training", affects="model")] = 0
        melt: int = 0

    with pytest.raises(TypeError, match="melt"):
        marks(Forgetful)


def test_a_tasks_own_options_are_named_texts() -> None:
    """NAME=VALUE on the command line and a mapping in a file are the same, and part of the digest."""
    settings = Settings(option=["max-length=64", "pooling=cls"])
    assert settings == Settings(option={"pooling": "cls", "max_length": 64})
    assert Settings.from_json(settings.to_json()).option == {"max_length": "64", "pooling": "cls"}
    assert settings.digest() != Settings().digest()
    with pytest.raises(ValidationError, match="NAME=VALUE"):
        Settings(option=["max_length"])


def test_given_options_are_fixed() -> None:
    """Only searched options that the user gave are fixed, a zero among them."""
    assert Settings(thaw=0, weight_decay=0.0, batch_size=4).fixed() == {"thaw": 0, "weight_decay": 0.0}


def test_defaults_keep_what_is_given() -> None:
    """Without a search, given options stand and the rest takes the defaults."""
    assert Settings(dropout=0.4).defaults() == Hyperparameters(dropout=0.4)


def test_what_a_task_recommends_holds_as_a_whole() -> None:
    """It stands beside other given options, and not at all where one of its own is given."""
    recommended = {"thaw": 3, "thaw_learning_rate": 1e-3}
    deeper = Hyperparameters.model_validate(recommended)
    assert Settings().defaults(recommended) == deeper
    assert Settings(dropout=0.4).defaults(recommended) == deeper.model_copy(update={"dropout": 0.4})
    assert Settings(thaw=2).defaults(recommended) == Hyperparameters(thaw=2)
    assert Settings(thaw_learning_rate=1e-4).defaults(recommended) == Hyperparameters(thaw_learning_rate=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dropout": 1.0},
        {"trials": -1},
        {"head": "cone"},
        {"unknown": 1},
        {"model": "a' or"},
        {"model": ".."},
        {"split_salt": ""},
    ],
)
def test_values_out_of_bounds_are_refused(wrong: dict[str, object]) -> None:
    """A value that makes no sense never starts a run."""
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_every_searched_option_is_a_hyperparameter() -> None:
    """The search fills exactly what the training steps take."""
    assert set(Hyperparameters.model_fields) == Settings.SEARCHED
    assert set(Settings.model_fields) >= Settings.SEARCHED


@pytest.mark.parametrize("wrong", [{"head": "mlp"}, {"augment": "basic"}, {"mixup": 0.2}])
def test_a_head_without_an_optimum_is_not_solved_for(wrong: dict[str, Any]) -> None:
    """--head-solver lbfgs is refused at once beside an mlp head or examples that differ in each epoch; sgd is not."""
    with pytest.raises(ValidationError, match="--head-solver lbfgs needs --head linear, and examples that stay"):
        Settings(head_solver="lbfgs", **wrong)
    assert not Settings(head_solver="sgd", **wrong).may_solve_head()


def test_augmented_batches_can_not_be_kept() -> None:
    """Keeping activations and augmenting afresh contradict each other."""
    with pytest.raises(ValidationError, match="use --views"):
        Settings(activations="keep", augment="basic")
