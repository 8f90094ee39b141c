"""A small DAG that tries out what a cluster promises; `thawline doctor --cluster` submits it."""

from kfp import dsl

from pipelines import steps


@steps.step
def look(run_key: str, secrets: str, source: str) -> bool:
    """See components/core/canary.py."""
    from components.core import canary, runs

    return canary.look(runs.own_key(run_key), secrets, source)


@steps.step
def look_again(run_key: str, fail_once: bool) -> None:  # noqa: FBT001 - KFP passes by name
    """See components/core/canary.py."""
    from components.core import canary, runs

    canary.look_again(runs.own_key(run_key), fail_once=fail_once)


@steps.step
def tell(run_key: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """See components/core/canary.py."""
    from components.core import canary, runs

    canary.tell(runs.own_key(run_key), status.state)


@dsl.pipeline(name="canary", description="Is everything there that a run needs?")  # type: ignore[untyped-decorator]  # kfp is untyped
def canary(
    run_key: str,
    secrets: str,
    source: str,
    fail_once: bool,  # noqa: FBT001 - KFP passes by name
) -> None:
    """Two steps in pods of their own, a condition between them, and an exit handler."""
    with dsl.ExitHandler(tell(run_key=run_key), name="try-out"):
        looked = look(run_key=run_key, secrets=secrets, source=source)
        with dsl.If(looked.output == True, name="there"):  # noqa: E712 - builds a condition
            look_again(run_key=run_key, fail_once=fail_once)
