"""A small DAG that tries out what a cluster promises; `thawline doctor --cluster` submits it.

It has every construct of `pipelines/fine_tuning.py`, and a last step that fails at its first attempt.
"""

from typing import NamedTuple

from kfp import dsl

from pipelines import steps


@steps.step
def look(
    run_key: str,
    secrets: str,
    source: str,
) -> NamedTuple("Looked", enter=bool, stray=bool):  # type: ignore[valid-type]  # KFP's form of several outputs
    """See components/core/tracking/canary.py."""
    from components.core import run_folder
    from components.core.tracking import canary

    return canary.look(run_folder.own_key(run_key), secrets, source)


@steps.step
def look_again(run_key: str, note: dsl.Output[dsl.Artifact]) -> None:
    """See components/core/tracking/canary.py."""
    from pathlib import Path

    from components.core import run_folder
    from components.core.tracking import canary

    canary.look_again(run_folder.own_key(run_key), Path(note.path))


@steps.step
def stay_out(run_key: str) -> None:
    """See components/core/tracking/canary.py."""
    from components.core import run_folder
    from components.core.tracking import canary

    canary.stay_out(run_folder.own_key(run_key))


@steps.step
def count(run_key: str, number: int, note: dsl.Input[dsl.Artifact]) -> str:
    """See components/core/tracking/canary.py."""
    from pathlib import Path

    from components.core import run_folder
    from components.core.tracking import canary

    return canary.count(run_folder.own_key(run_key), number, Path(note.path))


@steps.step
def gather(
    run_key: str,
    numbers: list,  # type: ignore[type-arg]  # KFP gives elements of a list no type
    counted: list,  # type: ignore[type-arg]  # as above
    note: dsl.Output[dsl.Artifact],
) -> str:
    """See components/core/tracking/canary.py."""
    from pathlib import Path

    from components.core import run_folder
    from components.core.tracking import canary

    return canary.gather(run_folder.own_key(run_key), numbers, counted, Path(note.path))


@steps.step
def receive(run_key: str, text: str, note: dsl.Input[dsl.Artifact]) -> None:
    """See components/core/tracking/canary.py."""
    from pathlib import Path

    from components.core import run_folder
    from components.core.tracking import canary

    canary.receive(run_folder.own_key(run_key), text, Path(note.path))


@steps.step
def fail_once(run_key: str) -> None:
    """See components/core/tracking/canary.py."""
    from components.core import run_folder
    from components.core.tracking import canary

    canary.fail_once(run_folder.own_key(run_key))


@steps.step
def tell(run_key: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """See components/core/tracking/canary.py."""
    from components.core import run_folder
    from components.core.tracking import canary

    canary.tell(run_folder.own_key(run_key), status.state)


class Counted(NamedTuple):
    """The outputs of `each_number`."""

    text: str
    note: dsl.Artifact


@dsl.pipeline(name="each-number", description="A loop, and a step that collects its results.")  # type: ignore[untyped-decorator]  # kfp is untyped
def each_number(run_key: str, numbers: list[int], note: dsl.Input[dsl.Artifact]) -> Counted:
    """The counterpart of several pods that search, and of what takes their results."""
    with dsl.ParallelFor(numbers, name="numbers") as number:
        counted = count(run_key=run_key, number=number, note=note)
    gathered = gather(run_key=run_key, numbers=numbers, counted=dsl.Collected(counted.output))
    return Counted(gathered.outputs["Output"], gathered.outputs["note"])


@dsl.pipeline(name="branches", description="A branch that has to run, and one that must not.")  # type: ignore[untyped-decorator]  # kfp is untyped
def branches(
    run_key: str,
    numbers: list[int],
    enter: bool,  # noqa: FBT001 - KFP passes by name
    stray: bool,  # noqa: FBT001 - as above
) -> None:
    """The counterpart of the condition that lets a run train."""
    with dsl.If(enter == True, name="enter"):  # noqa: E712 - builds a condition
        looked = look_again(run_key=run_key)
        counted = each_number(run_key=run_key, numbers=numbers, note=looked.outputs["note"])
        receive(run_key=run_key, text=counted.outputs["text"], note=counted.outputs["note"])
    with dsl.If(stray == True, name="stray"):  # noqa: E712 - as above
        stay_out(run_key=run_key)


@dsl.pipeline(name="canary", description="Is everything there that a run needs?")  # type: ignore[untyped-decorator]  # kfp is untyped
def canary(run_key: str, secrets: str, source: str, numbers: list[int]) -> None:
    """Every construct of the real DAG, and a failure that no other step waits for.

    The failure comes last: Argo starts no further step in a DAG one of whose steps has failed.
    """
    with dsl.ExitHandler(tell(run_key=run_key), name="try-out"):
        looked = look(run_key=run_key, secrets=secrets, source=source)
        switches = {name: looked.outputs[name] for name in ("enter", "stray")}
        tried = branches(run_key=run_key, numbers=numbers, **switches)
        fail_once(run_key=run_key).after(tried)
