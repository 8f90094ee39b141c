"""What a task and its target have to have, and what they may leave out."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from components.core.contract.optional_members import Overlay, TargetDefaults, TaskDefaults
from components.core.contract.task import (
    Answers,
    Labels,
    Metric,
    Objective,
    Scoring,
    Target,
    Task,
    complete_target,
    load_task,
)
from components.core.errors import InputError
from components.core.settings import Settings
from tests.fakes import smallest_task, toy

TARGET_PARTS = (Labels, Objective, Answers, Scoring)
WRITTEN = Path(smallest_task.__file__).read_text()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `mine.task` to write into."""
    (tmp_path / "mine").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mine" / "task.py"
    for name in ("mine", "mine.task"):
        sys.modules.pop(name, None)


def members(*protocols: type) -> set[str]:
    names = {name for one in protocols for name in (*inspect.get_annotations(one), *vars(one))}
    return {name for name in names if not name.startswith("_")}


def optional(defaults: type) -> set[str]:
    return {name for name in vars(defaults) if not name.startswith("_")}


def test_the_smallest_task_and_target_write_ten_members() -> None:
    """Four of a task, six of a target of its own; all others are optional."""
    assert members(Task) - optional(TaskDefaults) == {"target", "check", "build", "encode"}
    own = members(*TARGET_PARTS) - optional(TargetDefaults)
    assert own == {"targets", "loss", "answer", "answers", "metrics", "evaluate"}


@pytest.mark.parametrize(("protocols", "defaults"), [((Task,), TaskDefaults), (TARGET_PARTS, TargetDefaults)])
def test_defaults_have_the_contracts_form(protocols: tuple[type, ...], defaults: type) -> None:
    """A member that was left out is called as the one that was written."""
    assert optional(defaults) <= members(*protocols)
    for protocol in protocols:
        for name in members(protocol) & optional(defaults):
            declared, given = getattr(protocol, name, None), getattr(defaults, name)
            if callable(declared):
                ours, theirs = (list(inspect.signature(one).parameters.values()) for one in (given, declared))
                assert [(p.name, p.annotation) for p in ours] == [(p.name, p.annotation) for p in theirs], name


def test_the_smallest_task_is_completed() -> None:
    """What it leaves out does nothing, and what it writes is looked up in its module."""
    task, settings = load_task("tests.fakes.smallest_task"), Settings()
    assert (task.split_by, task.input_name, task.backbone, task.serving_requirements) == ("hash", "record", "", ())
    assert task.near_duplicates(["a", "a"], [True, True], settings) == []
    assert list(task.thumbnails([b"1,2"])) == []
    assert list(task.drawn([b"1,2"], ["1"], pd.DataFrame())) == []
    assert list(task.references(settings, Any)) == []  # type: ignore[arg-type]  # nobody looks
    assert task.trivial(settings, Any) is None  # type: ignore[arg-type]  # as above
    assert not task.augments(settings)
    assert task.build is smallest_task.build
    assert task.serving_code == Path(smallest_task.__file__)
    facts = {"classes": ["a", "b"], "hyperparameters": {"dropout": 0.5}}
    assert task.rebuild(settings, facts).head[-1].out_features == 2


def test_the_smallest_target_is_completed() -> None:
    """Labels hold no classes, validation gives the loss, and scores come from the headline."""
    target = load_task("tests.fakes.smallest_task").target(Settings())
    assert target.names(["1", "2"]) == [[], []]
    assert target.check_example("1", {"right": 1}) == "1"
    assert target.strata(["1", "2"]) == ["", ""]
    assert target.class_names(["1", "2"]) == ["value"]
    assert target.validate(torch.ones(2, 1), torch.zeros(2, 1)) == {"loss": 1.0}
    assert target.calibrate(torch.ones(2, 1), torch.zeros(2, 1)) == {}
    assert target.class_weights(torch.ones(2, 1), 1) is None
    assert target.answers_code == Path(smallest_task.__file__)
    answers = pd.DataFrame({"distance": [1.0, 4.0]})
    assert target.scores(answers, ["1", "2"]).tolist() == [0.0, -2.0]


def test_names_are_the_classes_where_labels_hold_some() -> None:
    """Without class names of its own, a target's outputs stand for the names in its labels."""
    named = complete_target(Overlay(smallest_task.Distance(), names=lambda labels: [label.split() for label in labels]))
    assert named.class_names(["b a", "c b"]) == ["a", "b", "c"]


@pytest.mark.parametrize("names", [("encode",), ("check", "build", "encode")])
def test_a_task_that_lacks_members_is_refused(names: tuple[str, ...], module: Path) -> None:
    """One sentence names all that is missing, and the file."""
    lacking = WRITTEN
    for name in names:
        lacking = lacking.replace(f"def {name}(", f"def other_{name}(")
    module.write_text(lacking)
    with pytest.raises(InputError) as caught:
        load_task("mine.task")
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    assert caught.value.sentence == f"The task mine.task lacks {listed} in {module}."


@pytest.mark.parametrize("name", ["targets", "loss", "evaluate"])
def test_a_target_that_lacks_a_member_is_refused(name: str, module: Path) -> None:
    """It is asked for when the target is made, before any data are read."""
    module.write_text(WRITTEN.replace(f"    def {name}(", f"    def other_{name}("))
    with pytest.raises(InputError, match=rf"The target of mine\.task lacks {name}\."):
        load_task("mine.task").target(Settings())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("def augment(contents): return contents", r"augment\(contents\) has to take \(contents, .*, seeds\)"),
        ("thumbnails = []", "thumbnails is not a function"),
        ("split_by = 'size'", "split_by is 'size', not 'hash' or 'time'"),
        ("serving_requirements = 'numpy'", "serving_requirements is 'numpy', not a list"),
        ("serving_code = 'code.py'", "serving_code is 'code.py', not a Path"),
        ("Options = dict", "Options is <class 'dict'>, not a class"),
    ],
)
def test_a_member_of_another_form_is_refused(line: str, reason: str, module: Path) -> None:
    """The sentence says what it is and what it has to be."""
    module.write_text(f"{WRITTEN}\n\n{line}\n")
    with pytest.raises(InputError, match=rf"The task mine\.task can't be used: {reason}"):
        load_task("mine.task")


@pytest.mark.parametrize("line", ["from components.core.errors import InputError", "from .other import x"])
def test_code_that_can_not_travel_is_refused(line: str, module: Path) -> None:
    """Serving code imports Thawline in functions only: it would break where the model serves."""
    module.write_text(WRITTEN.replace("import numpy as np\n", f"import numpy as np\n{line}\n"))
    module.with_name("other.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=f"The task mine.task ships {module} with the model, which imports"):
        load_task("mine.task")


def test_code_without_the_function_is_refused(module: Path) -> None:
    """A file that is named as serving code has to define `encode`."""
    module.write_text(f"{WRITTEN}\nfrom pathlib import Path\nserving_code = Path(check.__code__.co_filename)\n")
    assert load_task("mine.task").serving_code == module
    del sys.modules["mine.task"]
    other = module.with_name("other.py")
    other.write_text("x = 1\n")
    module.write_text(f"{WRITTEN}\nfrom pathlib import Path\nserving_code = Path({str(other)!r})\n")
    with pytest.raises(InputError, match="which defines no function encode"):
        load_task("mine.task")


@pytest.mark.parametrize("changes", [{"augment": "basic"}, {"mixup": 0.2}, {"cutmix": 0.2}])
def test_what_a_task_can_not_do_is_refused(changes: dict[str, Any]) -> None:
    """Augmentation that nobody wrote is no silent nothing."""
    with pytest.raises(InputError, match="can't"):
        load_task("tests.fakes.smallest_task").augments(Settings(**changes))
    assert load_task("tests.fakes.toy").augments(Settings(augment="basic"))


def test_a_patched_module_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are looked up when they are asked for, so a task stays what its module says."""
    task = load_task("tests.fakes.toy")
    assert isinstance(toy, ModuleType)
    monkeypatch.setattr(toy, "input_name", "place")
    assert task.input_name == "place"


def test_a_metric_without_features_gives_no_scores() -> None:
    """What is not a function of sums can't say which rows are better: the target has to."""
    target: Target = complete_target(Overlay(smallest_task.Distance(), metrics=[Metric("map")]))
    with pytest.raises(ValueError, match="map has no features"):
        target.scores(pd.DataFrame({"distance": [1.0]}), ["1"])
    assert not Metric("map").may_decide
    assert Metric("error", higher_is_better=False, figure=np.abs).sign == -1


@pytest.mark.parametrize("name", ["./mine.py", "mine..task", "/a/b.py", "mine task"])
def test_a_file_is_no_task(name: str) -> None:
    """A path, or anything else that no module is called, is refused with what a name looks like."""
    with pytest.raises(InputError, match="is not the name of a task"):
        load_task(name)
