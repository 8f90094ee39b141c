"""The DAG with every step in a container: `python -m tests.services.containers HOME SOURCE SETTINGS RUN_KEY`.

kfp's DockerRunner mounts its pipeline root at the same path and nothing else, so everything lies below it: the home
with its MLflow store, the data, and the toy task's code.
"""

import os
import shutil
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(home: Path, source: str, settings: str, run_key: str) -> None:
    """Run the DAG below `home`, which the containers' user must own; the outputs lie in `home/outputs`.

    That a step failed must be seen by its outputs: kfp 2.17 takes a container that is gone before it was waited for as
    a success.
    """
    warnings.simplefilter("ignore")  # kfp warns of what a local run ignores
    from kfp import local

    from pipelines.fine_tuning import fine_tuning

    code = home / "code" / "tests" / "fakes"
    code.mkdir(parents=True)
    for name in ("toy.py", "toy_serving.py"):
        shutil.copy(ROOT / "tests" / "fakes" / name, code)
    owner = home.stat()
    runner = local.DockerRunner(
        user=f"{owner.st_uid}:{owner.st_gid}",
        read_only=True,
        tmpfs={"/tmp": ""},  # noqa: S108 - the container's own
        network_mode="none",
        environment={"THAWLINE_HOME": str(home), "PYTHONPATH": str(home / "code"), "OMP_NUM_THREADS": "1"},
    )
    local.init(runner, pipeline_root=str(home), workspace_root=str(home / "workspace"), raise_on_error=True)
    for path in (home, *home.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    fine_tuning(source=source, settings=settings, run_key=run_key)


if __name__ == "__main__":
    run(Path(sys.argv[1]), *sys.argv[2:])
