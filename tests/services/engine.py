"""A real container engine, and the image of the steps, for tests: `pytest_plugins = ["tests.services.engine"]`.

The engine is the one that runs already, else Debian's dockerd, started for the session without a network of its own
(THAWLINE_ENGINE_NETWORK=1: with one, for compose). Layers and the base image stay in build/engine. Where no engine
can be had the tests say so and are skipped; with THAWLINE_REQUIRE_ENGINE=1 they fail.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "engine"
STAND_IN = Path(__file__).with_name("stand_in.sh")
READY_SECONDS = 60
# no bridge and no rules in the machine's firewall, which would stay behind: containers have the host's network or none
PRIVATE = ["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
UPSTREAM = "python:3.11-slim-bookworm"


class Engine(NamedTuple):
    """A running engine: its address, and the program that talks to it and knows BuildKit."""

    host: str
    client: str

    def docker(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command of the client."""
        done = subprocess.run(
            [self.client, *arguments], env=self.environment, capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    @property
    def environment(self) -> dict[str, str]:
        """What clients of the engine need."""
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}

    def has(self, image: str) -> bool:
        return self.docker("image", "inspect", image, check=False).returncode == 0


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine that answers."""
    # Debian's client has BuildKit built in; others need a plugin that may be missing
    client = next((c for c in ("/usr/bin/docker", shutil.which("docker")) if c and Path(c).exists()), None)
    if client is None:
        _missing("There is no docker client (Debian: apt-get install docker.io)")
    given = Engine(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), client)
    if given.docker("version", check=False).returncode == 0:
        yield given
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        _missing("No engine runs, and an own one needs root and dockerd (Debian: apt-get install docker.io)")
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "lock"), tempfile.TemporaryDirectory(prefix="engine-") as folder:  # a socket's path is short
        yield from _started(Engine(f"unix://{folder}/socket", client), Path(folder))


def _started(engine: Engine, folder: Path) -> Iterator[Engine]:
    places = [f"--host={engine.host}", f"--data-root={CACHE / 'data'}", f"--exec-root={folder}/exec"]
    log = folder / "log"
    with log.open("wb") as output:
        command = ["dockerd", *places, f"--pidfile={folder}/pid"]
        command += [] if os.environ.get("THAWLINE_ENGINE_NETWORK") == "1" else PRIVATE
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while engine.docker("version", check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                _missing(f"dockerd did not start: {log.read_text()[-1500:]}")
            time.sleep(0.2)
        yield engine
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    """The image to build on: the upstream one where the engine has or gets it, else its stand-in."""
    if engine.has(UPSTREAM) or engine.docker("pull", UPSTREAM, check=False).returncode == 0:
        return UPSTREAM
    key = hashlib.sha256(STAND_IN.read_bytes()).hexdigest()[:12]
    name, tar = f"stand-in-python:{key}", CACHE / f"{key}.tar"
    if engine.has(name):
        return name
    if not tar.exists():
        if shutil.which("mmdebstrap") is None:
            _missing(f"{UPSTREAM} can't be pulled, and its stand-in needs mmdebstrap (apt-get install mmdebstrap)")
        CACHE.mkdir(parents=True, exist_ok=True)
        part = tar.with_suffix(".part.tar")
        subprocess.run([str(STAND_IN), str(part)], check=True, capture_output=True)
        part.replace(tar)
    path = "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    engine.docker("import", "-c", 'CMD ["python3"]', "-c", path, "-c", "ENV LANG=C.UTF-8", str(tar), name)
    return name


@pytest.fixture(scope="session")
def image(engine: Engine, base: str) -> str:
    """The image of the steps, built as users build it, with the groups of all tasks; only the base may be another."""
    name = "thawline-python:test"
    build = f"--build-arg BASE={base} --build-arg TASKS='text audio' --network host"
    arguments = [f"DOCKER={engine.client}", f"IMAGE={name}", f"BUILD={build}"]
    command = ["/usr/bin/env", "make", "image", *arguments]
    done = subprocess.run(command, env=engine.environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # the builder's copy of docker/wheels, 3 GB; layers stay, for the next build
    engine.docker("builder", "prune", "--force", "--filter", "type=source.local")
    return name


def _missing(sentence: str) -> None:
    if os.environ.get("THAWLINE_REQUIRE_ENGINE") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)
