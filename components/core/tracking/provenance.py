"""The inputs of a trained model, each with a digest: data, settings, weights, code, libraries.

Equal inputs give an equal model as far as anyone can tell beforehand, so they need no second training.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from components.core.digests import canonical_json, digest, of_file
from components.core.machine.revision import libraries
from components.core.settings import Settings
from components.core.tracking import tag_names
from components.core.weight_sources import PACKAGES, is_model

BUSY: Final = "busy"  # the run made way for another one of its model
START = "champion"  # the part of a warm start: the version that training starts from
ROOT = Path(__file__).parents[3]
Parts = dict[str, Any]


def parts(settings: Settings) -> Parts:
    """The digests of everything but the data: settings and libraries by name, so that a change can be named.

    `gate` is among them although it makes no model.
    """
    training = {name: value for name, value in settings.training().items() if name != "weights"}
    return {
        "settings": _short(training),
        "weights": _weights(settings.weights),
        **program(settings.task),
        "gate": _short(settings.gate_rules()),
    }


def program(task: str) -> Parts:
    """Identify the program: the digest of the code, the task's own included, and the libraries by name."""
    return {"code": _code(task), "libraries": _libraries()}


def input_digest(parts: Parts) -> str:
    """Identifies what a model is made of, data included; 64 hexadecimal digits."""
    return digest({name: part for name, part in parts.items() if name != "gate"})


def tags(parts: Parts, settings: Settings) -> dict[str, str]:
    """The parts as tags of the pipeline's run; the digests of data and inputs only where the data was looked at."""
    found = {tag_names.PARTS: canonical_json(parts), tag_names.GATE_DIGEST: settings.gate_digest()}
    return found | (
        {tag_names.DATA_DIGEST: parts["data"], tag_names.INPUT_DIGEST: input_digest(parts)} if "data" in parts else {}
    )


def tags_of_data(known: Mapping[str, str], data_digest: str, start: str = "") -> dict[str, str]:
    """Tags of the pipeline's run, beside the `known` ones, once all data was read: it may have changed meanwhile.

    So may the champion: `start` is the mark of the one that a warm start took. A version that is judged again keeps
    the inputs that it was made of.
    """
    found = {tag_names.DATA_DIGEST: data_digest, tag_names.INDEXED: "true"}
    if tag_names.PARTS not in known or known.get(tag_names.CHANGE) == "judge":
        return found
    whole = {**read(known), "data": data_digest, **({START: start} if start else {})}
    return found | {tag_names.PARTS: canonical_json(whole), tag_names.INPUT_DIGEST: input_digest(whole)}


def read(tags: Mapping[str, str]) -> Parts:
    """The parts that a pipeline's run was tagged with."""
    return dict(json.loads(tags.get(tag_names.PARTS, "{}")))


def differences(before: Parts, now: Parts, *names: str) -> list[str]:
    """Parts that differ, each as `settings: head_epochs` or `code`."""
    found = []
    for name in names:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        which = []
        if isinstance(old, dict) and isinstance(new, dict):
            which = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        found.append(f"{name}: {', '.join(which)}" if which else name)
    return found


def _short(values: Mapping[str, Any]) -> dict[str, str]:
    """A digest for each value: all of them have to fit into one tag."""
    return {name: digest(value)[:12] for name, value in values.items()}


def _weights(spec: str) -> str:
    """The digest of a weight specification and of what it stands for, as far as that is here or on S3."""
    if spec.startswith("s3://"):
        from components.core.storage import s3

        if is_model(spec):
            return digest([spec, *s3.list_objects(spec.rstrip("/") + "/")])
        return digest([spec, *s3.look_up(spec)])
    if spec.startswith("package:"):
        return digest([spec, _version(PACKAGES[spec]) if spec in PACKAGES else ""])
    if is_model(spec):
        return digest([spec, *((file.name, of_file(file)) for file in sorted(Path(spec).iterdir()) if file.is_file())])
    if not ("/" in spec or "." in spec) or not Path(spec).is_file():  # a library's name, or missing: building it tells
        return digest([spec])
    return digest([spec, of_file(Path(spec))])


def _code(task: str) -> str:
    """The digest of Thawline's sources and of a task module of the user's own; what that imports is not seen."""
    total = hashlib.sha256()
    ours = [*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
    for name, path in [*sorted((p.relative_to(ROOT).as_posix(), p) for p in ours), *_task_files(task)]:
        total.update(f"{name}\0{of_file(path)}\n".encode())
    return total.hexdigest()


def encoding_digest(task: str, serving_code: Path, requirements: Sequence[str]) -> str:
    """Identifies what turns raw records into a network's input: kept activations depend on it; 64 hexadecimal digits.

    Args:
        task: Its name. Of Thawline's own tasks the version stands for the code; a user's module is read.
        serving_code: The module that encodes.
        requirements: Distributions that it needs; their versions count.
    """
    code = [(name, of_file(path)) for name, path in _task_files(task)]
    code.append(("serving_code", of_file(serving_code)))
    return digest([sorted(code), {name: _version(name) for name in requirements}])


def _task_files(task: str) -> Iterator[tuple[str, Path]]:
    """Sources of a task module by its dotted name, without importing it: that could cost seconds."""
    if "." not in task or task.startswith("components."):
        return
    for folder in dict.fromkeys([*sys.path, str(Path.cwd())]):
        path = Path(folder, *task.split("."))
        files = [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.rglob("*.py"))
        if files:
            yield from ((file.relative_to(folder).as_posix(), file) for file in files)
            return


def _libraries() -> dict[str, str]:
    """Versions of the libraries that results depend on, or the digest of the image that holds them all."""
    image = os.environ.get("THAWLINE_IMAGE_DIGEST")
    return {"image": image} if image else libraries()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
