"""Load a served model and let it answer its own example, in a process that knows nothing of Thawline.

`python -I -B components/core/registry/smoke_test.py MODEL_FOLDER` prints the answers as JSON. Imports of `components`
and `pipelines` are refused, and so is unpickling: a model that needs either fails here, before any alias moves.
"""

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


def main(folder: str) -> None:
    """Load, answer, print."""
    sys.meta_path.insert(0, Refused())
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    import mlflow.pyfunc
    import torch.export  # noqa: F401 - its own imports come before unpickling is refused
    from mlflow.models import Model

    sys.addaudithook(refuse_pickle)
    example = Model.load(folder).load_input_example(folder)
    print(mlflow.pyfunc.load_model(folder).predict(example).to_json(orient="records"))  # noqa: T201 - its result


if __name__ == "__main__":
    main(sys.argv[1])
