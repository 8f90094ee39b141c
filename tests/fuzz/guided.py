"""Let atheris look for inputs of one target that end in an error; it ends the process. See `tests.fuzz.run`."""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import CORPUS, SLOW_SECONDS  # nothing that is to be instrumented


def main(name: str, seconds: float) -> None:
    """Run a target until the time is over, or until the first input that fails, which is kept in the corpus."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["components", "PIL", "csv", "json", "zipfile"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
        for seed in target.seeds():  # imports what it needs, which takes longer than an input may
            target.read(seed)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(target.seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds:.0f}", f"-timeout={SLOW_SECONDS:.0f}", "-rss_limit_mb=4096"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={CORPUS / name}/", folder], target.read)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
