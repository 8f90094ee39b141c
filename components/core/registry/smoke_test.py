"""Load a served model and let it answer its own example, in a process that knows nothing of Thawline.

`python -I -B components/core/registry/smoke_test.py MODEL_FOLDER` prints the answers as JSON; with `--wait` behind it
when a line comes in, so that the libraries are loaded while the model is still being written. Imports of `components`
and `pipelines` are refused, and so is unpickling: a model that needs either fails here, before any alias moves.
"""

import atexit
import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class Refused(MetaPathFinder):
    """Refuses to import Thawline."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:  # noqa: ARG002 - importlib's signature
        """Refuse the packages of Thawline, leave all others to the next finder."""
        if name.partition(".")[0] in {"components", "pipelines", "thawline"}:
            raise ImportError(f"the served model must not import {name}")


def refuse_pickle(event: str, _arguments: tuple[object, ...]) -> None:
    """Audit hook: an unpickler that looks up a class is about to run what the archive says."""
    if event == "pickle.find_class":
        raise RuntimeError("the served model must not be unpickled")


def main(folder: str, *, wait: bool) -> None:
    """Load, answer, print; with `wait` once a line has come in."""
    gc.disable()  # a third of the seconds of a process that imports, answers once, and ends
    atexit.register(gc.freeze)
    sys.meta_path.insert(0, Refused())
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    import mlflow.pyfunc
    import torch.export  # noqa: F401 - its own imports come before unpickling is refused
    from mlflow.models import Model
    from mlflow.utils import requirements_utils

    # else MLflow looks through the files of all packages for their modules, a second's work, to warn of other versions
    setattr(requirements_utils, "_MODULES_TO_PACKAGES", {})  # noqa: B010 - there is no public way
    with contextlib.suppress(ImportError):  # most of what loading imports, where this release has it there
        importlib.import_module("torch.export.pt2_archive._package")
    if wait and not sys.stdin.readline():
        return  # whoever wanted to know is gone
    sys.addaudithook(refuse_pickle)
    example = Model.load(folder).load_input_example(folder)
    print(mlflow.pyfunc.load_model(folder).predict(example).to_json(orient="records"))  # noqa: T201 - its result


if __name__ == "__main__":
    main(sys.argv[1], wait="--wait" in sys.argv)
