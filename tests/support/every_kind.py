"""A DAG with every kind of edge, branch and loop that Kubeflow compiles; its steps do nothing."""

import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Optional

from kfp import compiler, dsl

step = dsl.component(base_image="python", install_kfp_package=False)


@step
def number(x: int) -> int:
    return x


@step
def word(text: str, n: int = 3, flag: bool = True, many: list = [1], left_out: Optional[str] = None) -> str:  # type: ignore[type-arg]  # noqa: B006, FBT001, FBT002, UP045 - kfp's form
    return text


@step
def make(text: str, data: dsl.Output[dsl.Dataset]) -> str:
    return text


@step
def use(data: dsl.Input[dsl.Dataset]) -> None:
    pass


@step
def gather(items: list, data: dsl.Input[list[dsl.Dataset]]) -> list:  # type: ignore[type-arg]  # as above
    return items


@step
def end(status: dsl.PipelineTaskFinalStatus) -> None:
    pass


class Made(NamedTuple):
    """The outputs of `branches`."""

    said: str
    data: dsl.Dataset


@dsl.pipeline
def branches(x: int, otherwise: str = "small", left_out: Optional[str] = None) -> Made:  # noqa: UP045 - as above
    asked = number(x=x)
    with dsl.If(asked.output == 3):
        three = make(text="three")
    with dsl.Elif(asked.output > 5):
        large = make(text="large")
    with dsl.Else():
        small = make(text=otherwise)
    word(text="a constant", left_out=left_out)
    said, data = ([task.outputs[name] for task in (three, large, small)] for name in ("Output", "data"))
    return Made(dsl.OneOf(*said), dsl.OneOf(*data))


@dsl.pipeline
def every_kind(workers: list[int] = [1, 2]) -> None:  # noqa: B006 - kfp's form
    with dsl.ExitHandler(end()):
        use(data=branches(x=4).outputs["data"])
        with dsl.ParallelFor([3, 6, 0]) as item:
            said = branches(x=item).outputs["said"]
            made = make(text=said)
        with dsl.ParallelFor(workers) as worker:
            counted = number(x=worker)
        gathered = gather(items=dsl.Collected(made.outputs["Output"]), data=dsl.Collected(made.outputs["data"]))
        gather(items=dsl.Collected(counted.output), data=dsl.Collected(made.outputs["data"]))
        with dsl.ParallelFor(gathered.output) as text:
            word(text=text, left_out=text)


def compiled(pipeline: Any = every_kind) -> str:
    """A pipeline as YAML."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "dag.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text()
