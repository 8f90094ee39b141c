"""The Makefile's targets."""

import os
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Makefile").read_text()
PHONY = next(line for line in TEXT.splitlines() if line.startswith(".PHONY:")).split()[1:]


def test_every_phony_target_exists() -> None:
    """What is declared has a rule, and every rule that makes no file is declared."""
    rules = set(re.findall(r"^([a-z-]+):(?!=)", TEXT, re.MULTILINE))
    assert rules == set(PHONY)


def test_help_lists_every_target() -> None:
    """`make help`, and `make` alone, list each target with its text."""
    texts = dict(re.findall(r"^([a-z-]+):.*## (.+)$", TEXT, re.MULTILINE))
    assert set(texts) == set(PHONY)
    for arguments in (["help"], []):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", *arguments]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        shown = dict(line.split(maxsplit=2)[1:] for line in done.stdout.splitlines())
        assert shown == texts


def test_scripts_that_recipes_call_exist() -> None:
    """Every Python file that a recipe names is there."""
    named = re.findall(r"\btests/[\w/]+\.py\b", TEXT)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_recipe_installs_only_from_the_lock() -> None:
    """Packages come from the lock with their hashes, what tests and benchmarks add too; pip fetches no other."""
    installs = [line for line in TEXT.replace("\\\n", "").splitlines() if "pip install" in line]
    assert len(installs) == 4
    assert "--require-hashes -r requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation -e ." in installs[1]
    hashed = ["--no-deps", "--require-hashes", "-r"]
    assert installs[2].split()[-4:] == [*hashed, "$<"]
    assert "$(AXE): tests/support/axe.txt |" in TEXT
    assert installs[3].split()[-4:] == [*hashed, "tests/benchmarks/requirements.txt"]


def test_the_workflow_calls_what_ci_calls() -> None:
    """GitHub's workflow and `.ci/run` install the same packages and call the same targets with the same variables."""
    script = (ROOT / ".ci" / "run").read_text()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    [job] = workflow["jobs"].values()
    called = [step["run"] for step in job["steps"] if "make " in step.get("run", "")]
    assert called == re.findall(r"^make [a-z-]+", script, re.MULTILINE) != []
    assert {target.split()[1] for target in called} <= set(PHONY)
    assert job["env"] == dict(re.findall(r"\b((?:MLFLOW|THAWLINE)_\w+)=(\w+)", script))
    assert ".ci/packages" in script.split()
    assert "sudo .ci/packages" in [step.get("run") for step in job["steps"]]


def test_hooks_before_a_commit_are_those_of_the_check() -> None:
    """What pre-commit calls are the tools of the environment that `make check` calls."""
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    recipe = TEXT.partition("\ncheck:")[2].partition("\n\n")[0]
    for hook in repository["hooks"]:
        assert hook["entry"].replace(".venv/bin/", "$(BIN)/").partition(" --")[0] in recipe


def test_the_night_requires_what_ci_requires() -> None:
    """`make nightly` fails where a part is missing that CI would fail without, instead of skipping its tests."""
    required = set(re.findall(r"\b(THAWLINE_REQUIRE_\w+)=1", (ROOT / ".ci" / "run").read_text()))
    assert required
    exported = dict(re.findall(r"^nightly: export (\w+) = (.*)$", TEXT, re.MULTILINE))
    assert {name: exported.get(name) for name in required} == dict.fromkeys(required, "1")
