"""The rules of the layout, as tests."""

import ast
import inspect
import re
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAINING = ("prepare_data", "search", "select_trial", "train_head", "fine_tune", "evaluate", "register")
STEPS = ("detect_changes", *TRAINING, "finish")
# A served model's entry and the process that tries it out run where Thawline is not installed: they import mlflow
# themselves, and nothing of Thawline.
SERVED = ("components/core/inference/served_model.py", "components/core/registry/smoke_test.py")


DISTRIBUTIONS = cache(packages_distributions)


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, anywhere in it."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    return tuple(found)


def importers(folder: str, package: str) -> set[str]:
    """Files below a folder that import a package or anything in it."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        if any(name == package or name.startswith(f"{package}.") for name in imports(path))
    }


@pytest.mark.parametrize("package", ["kfp", "pipelines"])
def test_components_know_no_kubeflow(package: str) -> None:
    """Nothing in components imports kfp or pipelines."""
    assert importers("components", package) == set()


@pytest.mark.parametrize(
    ("package", "owner"), [("mlflow", "components/core/tracking/"), ("boto3", "components/core/storage/s3.py")]
)
def test_a_service_has_one_owner(package: str, owner: str) -> None:
    """Mlflow is imported in tracking and boto3 by s3, and by nothing else."""
    found = importers("components", package) | importers("pipelines", package)
    assert found - set(SERVED)
    assert all(path.startswith(owner) for path in found - set(SERVED))


def test_tags_are_spelled_once() -> None:
    """Names of MLflow's tags stand in tag_names.py alone; docstrings may mention them."""
    found = set()
    for path in [*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found |= {
            str(path.relative_to(ROOT))
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs
            if re.search(r"(?<![\w/])thawline\.(?!prom|yaml)|mlflow\.[a-z]+[A-Z]", node.value)
        }
    assert found == {"components/core/tracking/tag_names.py"}


def test_tasks_and_core_import_no_step() -> None:
    """Dependencies point from steps to tasks and core, never back."""
    for step in STEPS:
        assert importers("components/tasks", f"components.{step}") == set()
        assert importers("components/core", f"components.{step}") == set()


def test_tasks_do_not_import_each_other() -> None:
    """A task stands alone beside the others; the contract in the package is no task."""
    paths = list((ROOT / "components/tasks").glob("[a-z]*.py"))
    tasks = {f"components.tasks.{path.stem}" for path in paths}
    for path in paths:
        found = {name for name in imports(path) if any(name == task or name.startswith(f"{task}.") for task in tasks)}
        assert found == set(), path.name


def test_what_is_served_stands_alone() -> None:
    """Code that travels with a model imports nothing of Thawline."""
    for path in (ROOT / "components/core/inference").glob("*.py"):
        found = set(imports(path))
        assert not any(module.partition(".")[0] in ("components", "pipelines", "thawline") for module in found), (
            path.name
        )


# What every package of components/core may import beside those below it: two packages, and the files of core itself.
LOWEST = ("machine", "storage")
# The packages of components/core, lowest first, each with those that it may import beside the lowest.
BELOW = {
    "machine": set(),
    "storage": {"machine"},
    "contract": set(),
    "inference": set(),
    "evidence": {"contract"},
    "networks": {"contract", "inference"},
    "tracking": {"contract"},
    "sources": {"contract"},
    "data": {"contract", "tracking", "sources"},
    "compute": {"contract", "networks"},
    "activations": {"contract", "networks", "compute"},
    "modalities": {"contract", "inference", "networks", "data"},
    "targets": {"contract", "inference", "evidence", "data"},
    "fitting": {"contract", "networks", "tracking", "data", "compute", "activations"},
    "training": {"contract", "networks", "tracking", "data", "compute", "activations", "fitting"},
    "searching": {"contract", "networks", "tracking", "compute", "fitting", "training"},
    "registry": {"contract", "inference", "networks", "tracking"},
    "evaluation": {
        *("contract", "evidence", "networks", "tracking", "sources", "data", "compute", "activations"),
        *("targets", "fitting", "training", "registry"),
    },
    "reporting": {"contract", "tracking", "targets", "fitting", "training", "searching", "registry"},
}


def above(name: str) -> str:
    """The package of core that an imported module lies in, or `tasks`; empty for all others."""
    parts = name.split(".")
    inside = parts[2] if parts[:2] == ["components", "core"] and len(parts) > 2 else ""
    return "tasks" if parts[:2] == ["components", "tasks"] else inside if inside in BELOW else ""


def test_packages_of_core_import_downwards() -> None:
    """A package of core imports what stands below it, and nothing else; the contract names what flows, as types."""
    packages = {path.parent.name for path in (ROOT / "components/core").glob("*/__init__.py")}
    assert packages == BELOW.keys()
    against = set()
    for package, below in BELOW.items():
        free = set() if package in LOWEST else set(LOWEST)
        for path in sorted((ROOT / "components/core" / package).rglob("*.py")):
            if f"{package}/{path.name}" in {"contract/task.py", "contract/optional_members.py"}:
                continue
            found = {above(name) for name in imports(path)} - below - free - {package, ""}
            against |= {(f"{package}/{path.name}", name) for name in found}
    assert against == set()


def test_files_of_core_itself_stand_above_its_lowest_packages() -> None:
    """They import the two lowest packages only, and those import of them what stands on nothing."""
    core = ROOT / "components/core"
    for path in sorted(core.glob("*.py")):
        assert {above(name) for name in imports(path)} <= {*LOWEST, ""}, path.name
    files = {f"components.core.{path.stem}" for path in core.glob("[a-z]*.py")}
    for path in [path for package in LOWEST for path in sorted((core / package).glob("*.py"))]:
        assert files & set(imports(path)) <= {"components.core.errors", "components.core.digests"}, path.name


def test_a_folder_has_at_most_twelve_files() -> None:
    """What one has to look through to find a name fits on a screen."""
    folders = {path.parent for name in ("components", "pipelines", "thawline") for path in (ROOT / name).rglob("*.py")}
    full = {str(f.relative_to(ROOT)): n for f in folders if (n := len(list(f.glob("*.py")))) > 12}
    assert full == {}


@pytest.mark.parametrize("name", STEPS)
def test_a_wrapper_has_its_steps_parameters(name: str) -> None:
    """Every wrapper takes what its step takes; KFP's own artifacts stand for paths, or for what the step returns."""
    from pipelines import steps

    def parameters(step: str) -> set[str]:
        return set(inspect.signature(getattr(import_module(f"components.{step}"), step)).parameters)

    kfp_side = set(inspect.signature(getattr(steps, name).python_func).parameters)
    plain = parameters(name)
    if name == "search":  # one pod that searches also selects
        kfp_side, plain = kfp_side | {"worker", "studies"}, plain | parameters("select_trial")
    returned = {"metrics", "confusion"} if name == "evaluate" else set()
    assert {"state" if p == "status" else p for p in kfp_side - returned} == plain


@pytest.mark.parametrize("name", ["components", "pipelines", "thawline"])
def test_import_names_have_no_other_owner(name: str) -> None:
    """No other installed distribution owns our import names."""
    assert set(DISTRIBUTIONS().get(name, [])) <= {"thawline"}


def test_docker_folder_does_not_hide_the_docker_library() -> None:
    """docker/ has no __init__.py: `import docker` must find the library that kfp uses."""
    assert not (ROOT / "docker" / "__init__.py").exists()


def test_nothing_works_at_import_time() -> None:
    """The command line starts without torch, mlflow or kfp."""
    import subprocess
    import sys

    code = "import sys, pipelines.cli; print([m for m in ('torch', 'mlflow', 'kfp', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# The parts of pipelines, lowest first, each with those that it may import: folders, or files of pipelines itself.
PARTS = {
    "dags": set(),
    "terminal": set(),
    "local": {"dags", "terminal"},
    "predictions": {"terminal", "local"},
    "serving": {"local", "predictions"},
    "kubeflow": {"dags", "terminal"},
    "commands": {"dags", "terminal", "local", "predictions", "serving", "kubeflow"},
    "cli": {"commands", "terminal"},
    "entry": {"cli"},
}
FILES = dict.fromkeys(("fine_tuning", "pretraining", "canary", "steps"), "dags")


def part(module: str) -> str:
    """The part of pipelines that a module lies in; empty for all others."""
    parts = module.split(".")
    return FILES.get(parts[1], parts[1]) if parts[0] == "pipelines" and len(parts) > 1 else ""


def test_pipelines_import_downwards() -> None:
    """DAGs know neither Kubeflow's server nor a command, what speaks to the server knows no command."""
    against = set()
    for path in sorted((ROOT / "pipelines").rglob("*.py")):
        if path.parent == ROOT / "pipelines" and path.stem == "__init__":
            continue
        own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
        found = {part(name) for name in imports(path)} - PARTS[own] - {own, ""}
        against |= {(str(path.relative_to(ROOT)), name) for name in found}
    assert against == set()


def test_the_python_interface_is_a_face() -> None:
    """Nothing imports it, and importing it loads neither torch nor mlflow."""
    import subprocess
    import sys

    assert not any(importers(folder, "thawline") for folder in ("components", "pipelines"))
    code = "import sys, thawline; print([m for m in ('torch', 'mlflow', 'kfp', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_report_gate_and_steps_know_no_metric_and_no_task() -> None:
    """They take names, directions and texts from the contract, so a new metric or task touches its own file only."""
    from components.core.targets import (
        classification_metrics,
        detection_metrics,
        multilabel,
        regression,
        transcription,
    )

    modules = (classification_metrics, detection_metrics, multilabel, regression, transcription)
    names = {metric.name for module in modules for metric in module.METRICS}
    names |= {path.stem for path in (ROOT / "components/tasks").glob("[a-z]*.py")}
    assert len(names) > 15
    kept = {("status.py", "accuracy")}  # what monitors read since the first version
    paths = [ROOT / "pipelines/steps.py", *(ROOT / f"components/{step}.py" for step in STEPS)]
    for package in ("evidence", "evaluation", "reporting"):
        paths += (ROOT / "components/core" / package).glob("*.py")
    found = {
        (path.name, node.value)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }
    assert found == kept
    template = (ROOT / "components/core/reporting/page.html.j2").read_text()
    code = " ".join(re.findall(r"{[{%](.*?)[%}]}", template))
    assert not names & set(re.findall(r"\w+", code)) - {"map"}  # `map` is a filter of Jinja too
