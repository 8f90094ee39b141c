"""The options of commands: those made from the settings and from the pods' options, and those that commands share.

Names, types, bounds and help have one definition: the field.
"""

import inspect
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from components.core.contract import task_sources
from components.core.contract.task import TASKS_FOLDER
from components.core.errors import InputError, plainly
from components.core.settings import OPTIONS, Settings
from components.core.storage import home_folder
from components.core.tracking.service.server import check_address, is_server
from pipelines.kubeflow.pods import LIGHT, REST, Cluster
from pipelines.terminal.completion import model_names
from pipelines.terminal.config_file import option_name, place, read_config
from pipelines.terminal.surroundings import check_home, check_store, check_temporary_folder, ensure_home

HomeOption = Annotated[
    Path | None, typer.Option(help="Folder for everything that Thawline writes (default: $THAWLINE_HOME or .thawline)")
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        help="MLflow server, http://HOST:PORT (default: $MLFLOW_TRACKING_URI, or a file in the home folder); "
        "log in with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        show_default=False,
    ),
]
VERSION = "NAME, NAME@alias or NAME/version; the default alias is champion."
VersionArgument = Annotated[str, typer.Argument(help=VERSION, autocompletion=model_names)]
VersionOption = Annotated[str, typer.Option(help=VERSION, autocompletion=model_names)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
HostOption = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT", help="Address of Kubeflow Pipelines; not needed in a pod of the cluster."
    ),
]
NamespaceOption = Annotated[
    str, typer.Option(envvar="KFP_NAMESPACE", help="Your namespace, if Kubeflow has several users.")
]
# defaults that are not the field's: what a command puts in their place
DEFAULTS = {
    "task": "detected from the records by `run`, else image_classification",
    "model": "the name of the source",
}
ConfigOption = Annotated[
    Path | None, typer.Option(help="YAML file with the same names; the command line overrides it.")
]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the command's `**options` by an option for every setting, unset unless given."""
    options = []
    for name, field in Settings.model_fields.items():
        default = shown_default(name)
        option = typer.Option(
            help=f"{field.description}{default and f' (default: {default})'}",
            rich_help_panel=OPTIONS[name].panel,
            show_default=False,
            autocompletion=model_names if name == "model" else None,
        )
        kind = _plain(field.annotation) | None
        options.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])
        )
    return _extended(command, options)


def shown_default(name: str) -> str:
    """The default of a setting in words; empty where its description says what happens without it."""
    default = Settings.model_fields[name].default
    if name in Settings.SEARCHED:
        return "searched"
    if name in DEFAULTS:
        return DEFAULTS[name]
    if isinstance(default, bool):
        return "on" if default else "off"
    return "" if default in ("", {}) else f"{default:g}" if isinstance(default, float) else str(default)


def _extended(command: Callable[..., None], options: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """Replace a command's `**options` by these, in its signature, which typer reads, and its annotations, for types."""
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
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

    What neither gives is taken from the recipe of a task that has one.

    Raises:
        InputError: A name or a value is not allowed, or the file can't be read.
    """
    file = read_config(config) if config else {}
    given = {n: v for n, v in file.items() if n not in Cluster.model_fields}
    given |= {name: value for name, value in options.items() if value not in (None, [])}
    given.setdefault("model", model_name(source))
    try:
        settings = Settings.model_validate(given)
        recommended = task_sources.recipe(settings.task, Path.cwd()) if "task" in given else {}
        return Settings.model_validate({**recommended, **given}) if recommended else settings
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # two settings that don't go together
            raise InputError(f"{first['ctx']['error']}.", "See `thawline run --help`.") from None
        field = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            where = f" in {place(config, field)}" if config else ""
            near = get_close_matches(field, Settings.model_fields, 1)
            hint = f"Did you mean {option_name(near[0])}?" if near else "See `thawline run --help`."
            raise InputError(f"There is no setting {option_name(field)!r}{where}.", hint) from None
        message = f"{_named(field, options, config)} can't be {first['input']!r}: {plainly(first['msg']).lower()}."
        raise InputError(message, "See `thawline run --help`.") from None


def _named(field: str, options: Mapping[str, Any], config: Path | None) -> str:
    """An option as the user gave it: on the command line, or in a line of the config file."""
    if config is None or options.get(field) not in (None, []):
        return f"--{option_name(field)}"
    return f"In {place(config, field)}, {option_name(field)}"


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
    """Return whether there is a registry: a server, or the file that the first run creates in the home folder."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (home_folder.home() / "mlflow.db").exists()


def check_model(name: str) -> None:
    """Check a model's name before it goes into the registry's queries, and that there is a registry.

    Raises:
        InputError: It is no name, or there are no models.
    """
    merge({"model": name}, None, name)
    if not has_store():
        raise InputError(
            f"There are no models in {home_folder.home()}.", "Train one with `thawline run`, or set --home."
        )


def with_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of `Cluster`, beside those that its signature shows."""
    options = []
    for name, field in Cluster.model_fields.items():
        repeated = field.annotation not in (str, int, float) and "Literal" not in str(field.annotation)
        kind: Any = list[str] if repeated else field.annotation if field.annotation in (int, float) else str
        default = _shown(field.default)
        text = f"{field.description}{' Repeatable.' if repeated else ''}{default and f' (default: {default})'}"
        option = typer.Option(help=text, rich_help_panel="Pods", show_default=False)
        annotation = Annotated[kind | None, option]
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return _extended(command, options)


def _shown(default: Any) -> str:  # noqa: ANN401 - a field's
    """A default as the help shows it; empty where there is none to speak of."""
    if isinstance(default, dict) and default:
        return f"{default[REST]}; light steps {default[LIGHT[0]]}" if LIGHT[0] in default else str(default[REST])
    if isinstance(default, int | float):
        return f"{default:g}"
    return default if isinstance(default, str) else ""


def merge_cluster(options: Mapping[str, Any], config: Mapping[str, Any], file: Path | None = None) -> Cluster:
    """The pods' options from a config file's values and the command line, which wins.

    Raises:
        InputError: A value is not allowed.
    """
    names = Cluster.model_fields.keys()
    given = {name: value for name, value in config.items() if name in names}
    given |= {name: value for name, value in options.items() if name in names and value not in (None, [])}
    try:
        return Cluster.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        message = plainly(first["msg"])
        if first["loc"]:
            name = str(first["loc"][0])
            value = "given so" if name == "env" else repr(first["input"])  # others' values stand beside the wrong one
            message = f"{_named(name, options, file)} can't be {value}: {message}"
        raise InputError(f"{message}.", "See `thawline submit --help`.") from None


def merge_run(options: Mapping[str, Any], config: Path | None, source: str) -> tuple[Settings, Cluster]:
    """The settings of a run on a cluster and the options of its pods, from a config file and the command line.

    Raises:
        InputError: A name or value is not allowed.
    """
    cluster = merge_cluster(options, read_config(config) if config else {}, config)
    return merge(
        {name: value for name, value in options.items() if name in Settings.model_fields}, config, source
    ), cluster
