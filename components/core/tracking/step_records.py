"""Records of finished steps, by which a run that goes on takes them over in place of doing them again.

A step that has ended well writes `runs/<run key>/steps/<step>.json`: what it started from (its settings and arguments,
the code, the libraries, the digests of what it reads), the digest of each output, and what it returned. If the same run
comes to the step again, it takes the record's outputs and its return value for its own, provided that

- it would start from the same, bit for bit,
- the outputs are where they were, and have the digests that they had,
- what the step stands on outside of these, as the source of the data or the champion, has not changed (`valid`).

In every other case the step is done anew, from an empty output. So a kill costs the step that it hit; a record that was
not written yet costs that step once more, which is why no step has an effect that a second time would add to.

It works where the outputs outlive the process, which is in the home. On a cluster they don't lie there: Kubeflow keeps
them, and takes finished steps over itself when somebody retries a run.
"""

import functools
import inspect
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar, get_type_hints

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from components.core import digests, run_folder
from components.core.errors import ExpectedError
from components.core.machine import torchrun
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking import provenance

P = ParamSpec("P")
R = TypeVar("R")
FOLDER = "steps"  # in a run's folder
Arguments = Mapping[str, Any]
Valid = Callable[[Arguments, Any], bool]  # takes the step's arguments and what it returned


class _Call(NamedTuple):
    """One call of a step."""

    name: str
    arguments: Arguments
    outputs: tuple[str, ...]

    @property
    def run_key(self) -> str:
        return str(self.arguments["run_key"])

    @property
    def record(self) -> Path:
        return run_folder.run_folder(self.run_key) / FOLDER / f"{self.name}.json"

    def paths(self) -> dict[str, Path]:
        """Return the paths that the step reads and writes, by parameter."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, Path)}

    def is_kept(self) -> bool:
        """Return whether what the step reads and writes outlives its process."""
        return not torchrun.launched() and all(p.is_relative_to(home_folder.home()) for p in self.paths().values())

    def start(self) -> str:
        """The digest of what the step starts from."""
        settings = Settings.from_json(self.arguments["settings"])
        plain = {name: value for name, value in self.arguments.items() if not isinstance(value, Path)}
        read = {name: _known(self.run_key, path) for name, path in self.paths().items() if name not in self.outputs}
        return digests.digest([self.name, plain, read, provenance.program(settings.task)])


def taken_over(*outputs: str, valid: Valid | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a step, the function of its module, take its own record over; see above.

    Args:
        outputs: Its parameters that it writes to; it reads from its other paths.
        valid: Whether what it stands on beside its inputs is as it was.
    """

    def decorate(step: Callable[P, R]) -> Callable[P, R]:
        signature, name = inspect.signature(step), step.__module__.rpartition(".")[2]

        @functools.wraps(step)
        def once(*inputs: P.args, **named: P.kwargs) -> R:
            bound = signature.bind(*inputs, **named)
            bound.apply_defaults()
            call = _Call(name, bound.arguments, outputs)
            if not call.is_kept():
                return step(*inputs, **named)
            returns: TypeAdapter[R] = TypeAdapter(get_type_hints(step)["return"])
            call.record.parent.mkdir(exist_ok=True)
            with FileLock(call.record.with_suffix(".lock")):  # a process of before may still be ending
                start = call.start()
                if (record := _read(call, start)) is not None:
                    with suppress(ValidationError, ExpectedError):  # the step meets it again, and says so
                        result = returns.validate_python(record["result"])
                        if valid is None or valid(bound.arguments, result):
                            run_folder.emit(call.run_key, name, "taken_over", figure=_figure(call))
                            return result
                _clear(call)
                result = step(*inputs, **named)
                found = {output: [str(bound.arguments[output]), _digest(call, output)] for output in outputs}
                text = json.dumps({"start": start, "outputs": found, "result": returns.dump_python(result)})
                home_folder.write_text(call.record, text)
                shutil.rmtree(run_folder.run_folder(call.run_key) / run_folder.STATES / name, ignore_errors=True)
                return result

        return once

    return decorate


def output(run_key: str, step: str, name: str) -> tuple[Path, Any] | None:
    """One output of a finished step and what the step returned, as JSON; unchecked, and None without a record."""
    record = run_folder.read_facts(run_folder.run_folder(run_key) / FOLDER / f"{step}.json")
    try:
        return Path(record["outputs"][name][0]), record["result"]
    except (LookupError, TypeError):
        return None


def recorded(run_key: str) -> set[str]:
    """Return the steps of a run that have a record."""
    return {path.stem for path in (run_folder.run_folder(run_key) / FOLDER).glob("*.json")}


def _read(call: _Call, start: str) -> dict[str, Any] | None:
    """The record of a call that starts from the same, with outputs that are what they were; None without one."""
    record = run_folder.read_facts(call.record)
    as_before = record.get("start") == start and record.get("outputs") == {
        output: [str(call.arguments[output]), _digest(call, output)] for output in call.outputs
    }
    return record if as_before and "result" in record else None


def _clear(call: _Call) -> None:
    """Remove the step's record, and what a process of before left of its outputs."""
    call.record.unlink(missing_ok=True)
    for output in call.outputs:
        path = call.arguments[output]
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


def _digest(call: _Call, output: str) -> str:
    return digests.of_tree(call.arguments[output])


def _known(run_key: str, path: Path) -> str:
    """The digest of an input: as the step that made it recorded or just checked it, else read."""
    for record in (run_folder.run_folder(run_key) / FOLDER).glob("*.json"):
        with suppress(ValueError, AttributeError, TypeError):  # a broken one, whose step makes it anew
            for place, digest in run_folder.read_facts(record).get("outputs", {}).values():
                if place == str(path):
                    return str(digest)
    return digests.of_tree(path)


def _figure(call: _Call) -> str:
    """The figure that the step showed when it ended."""
    told = [event for event, _ in run_folder.events(call.run_key) if event["step"] == call.name]
    figures = [event.get("figure", "") for event in told if event["event"] in ("finished", "taken_over")]
    return str(figures[-1]) if figures else ""
