"""The options of `thawline run`, made from the settings: one definition of names, types, bounds and help.

And those that commands share: the home folder and `--json`.
"""

import inspect
import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from components.core import run_folder
from components.core.contract import TASKS_FOLDER
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.tracking.server import check_address, is_server
from pipelines.kubeflow.pods import Cluster
from pipelines.surroundings import check_home, check_store, check_temporary_folder, ensure_home

HomeOption = Annotated[
    Path | None, typer.Option(help="Folder for everything Thawline writes (default: $THAWLINE_HOME or .thawline)")
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        help="MLflow server, http://HOST:PORT (default: $MLFLOW_TRACKING_URI, or a file in the home folder); "
        "log in by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
PANELS = {
    "task": "Problem and model",
    "backbone": "Network",
    "optimizer": "Training",
    "augment": "Augmentation",
    "trials": "Search and machine",
    "split_salt": "Data",
    "gate": "Gate",
    "min_new": "When nothing changed",
    "max_minutes": "Deadline, cost, notification",
}


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the command's `**options` by an option for every setting, unset unless given."""
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    panel, options = "", []
    for name, field in Settings.model_fields.items():
        panel = PANELS.get(name, panel)
        default = "searched" if name in Settings.SEARCHED else field.default
        option = typer.Option(
            help=f"{field.description} (default: {default})", rich_help_panel=panel, show_default=False
        )
        kind = _plain(field.annotation) | None
        options.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])
        )
    # typer reads the signature, and the annotations for their types
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]  # set on purpose
    command.__annotations__ |= {o.name: o.annotation for o in options}
    return command


def _plain(annotation: Any) -> Any:  # noqa: ANN401 - a type
    """The type without None."""
    if typing.get_origin(annotation) is dict:
        return list[str]  # NAME=VALUE, several times
    return next((a for a in typing.get_args(annotation) if a in (int, float)), annotation)


def merge(options: Mapping[str, Any], config: Path | None, source: str) -> Settings:
    """Settings from a config file and the command line, which wins; a file may hold options of pods beside them.

    Raises:
        InputError: A name or a value is not allowed, or the file can't be read.
    """
    given = {n: v for n, v in (read_config(config) if config else {}).items() if n not in Cluster.model_fields}
    given |= {name: value for name, value in options.items() if value not in (None, [])}
    given.setdefault("model", model_name(source))
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # two settings that don't go together
            raise InputError(f"{first['ctx']['error']}.", "See `thawline run --help`.") from None
        name = str(first["loc"][0]).replace("_", "-")
        if first["type"] == "extra_forbidden":
            raise InputError(f"There is no setting {name!r} in {config}.", "See `thawline run --help`.") from None
        message = f"--{name} can't be {first['input']!r}: {first['msg'].lower()}."
        raise InputError(message, "See `thawline run --help`.") from None


def model_name(source: str) -> str:
    """The model's name where none is given: the last part of the source."""
    stem = Path(source.rstrip("/")).name.partition(".")[0] or Path(source).resolve().name
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)[:100] or "thawline"


def use_home(home: Path | None, tracking_uri: str | None = None) -> None:
    """Make a folder THAWLINE_HOME for what follows: the given one, else the environment's, else `.thawline` here.

    The same for the MLflow server, of this process and all that it starts.

    Raises:
        InputError: The server's address is none, holds a password, or is of an unsupported kind; or the home's path
            can't be part of a database's address.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI", "") if tracking_uri is None else tracking_uri
    if tracking_uri is not None or is_server(address):
        check_address(address)
        os.environ["MLFLOW_TRACKING_URI"] = address.rstrip("/")
    check_store(address)
    chosen = home or Path(os.environ.get("THAWLINE_HOME") or ".thawline")
    try:
        folder = str(chosen.expanduser().resolve())
    except RuntimeError:
        raise InputError(f"{chosen} can't be found: this user has no home folder.", "Give a whole path.") from None
    if not is_server(address):
        check_home(folder)
    check_temporary_folder()
    ensure_home()
    os.environ |= {"THAWLINE_HOME": folder, TASKS_FOLDER: str(Path.cwd())}
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would write among our own lines


def has_store() -> bool:
    """Whether there is a registry to ask: a server, or the file that the first run makes in the home folder."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (run_folder.home() / "mlflow.db").exists()


def check_model(name: str) -> None:
    """Check a model's name before it goes into the registry's queries, and that there is a registry.

    Raises:
        InputError: It is no name, or there are no models.
    """
    merge({"model": name}, None, name)
    if not has_store():
        raise InputError(
            f"There are no models in {run_folder.home()}.", "Train one with `thawline run`, or give --home."
        )


def read_config(config: Path) -> dict[str, Any]:
    """The values of a config file by name.

    Raises:
        InputError: It can't be read.
    """
    try:
        values = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"The config file {config} can't be read: {reason}.", "Mend it or leave --config out."
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"The config file {config} is no mapping of options.", "Write one `name: value` a line.")
    return {str(name).replace("-", "_"): value for name, value in values.items()}
