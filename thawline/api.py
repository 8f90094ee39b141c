"""The functions of `import thawline`: a face of the commands, which load their libraries when they are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console

from components.core.run_result import RunResult

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.predictions.prediction import Record

Result: TypeAlias = RunResult
One: TypeAlias = Path | str | bytes  # a file, folder or s3:// address; bytes are a record themselves


def run(
    source: str | Path,
    *,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    config: str | Path | None = None,
    fresh: bool = False,
    quiet: bool = False,
    **settings: Any,  # noqa: ANN401 - one per setting, checked by pydantic
) -> Result:
    """Run the whole pipeline on this machine, as `thawline run` does, and show its progress.

    A run without anything new ends in seconds, with the result of the run before; one that was interrupted resumes.

    Example:
        >>> result = thawline.run("photos", model="stamps", trials=0)
        >>> result.status, result.version, result.promoted
        ('succeeded', '1', True)
        >>> 0 < result.metrics["accuracy"] <= 1, result.report.endswith("report.html")
        (True, True)

    Args:
        source: Folder with a subfolder per class, s3://bucket/prefix, or manifest.
        home: Folder for everything that Thawline writes, from now on; by default $THAWLINE_HOME, or .thawline here.
        tracking_uri: MLflow server, from now on; by default $MLFLOW_TRACKING_URI, or a file in the home folder.
        config: YAML file of settings; those given here override it.
        fresh: Start over, even if the last run of the model was cut short and could be resumed.
        quiet: Show nothing.
        settings: The options of `thawline run` by their names, with underscores.

    Raises:
        InputError: What was given can't be used; the message says what helps.
        StepError: A step failed.
    """
    from pipelines.commands import run as command
    from pipelines.local.resume import begin
    from pipelines.local.task_choice import with_task_of_data
    from pipelines.terminal.option_checks import check_names

    _use_home(home, tracking_uri)
    place, console = str(source), Console(stderr=True, quiet=quiet)
    file = None if config is None else Path(config)
    chosen, _ = with_task_of_data(command.checked(settings, file, place), place)
    check_names(chosen)
    place = place if "://" in place else str(Path(place).expanduser().resolve())
    begun = begin(place, chosen, fresh=fresh)
    result = command.execute(place, chosen, begun, console)
    command.check_succeeded(result, begun.run_key)
    return result


@dataclass(frozen=True)
class Model:
    """A version of a registered model, loaded by `load`."""

    name: str
    version: str
    _served: Any

    def predict(self, records: One | Sequence[One] = (), *, texts: Sequence[str] = ()) -> "pd.DataFrame":
        """Return a row for each record: the record's name, the columns of its answer, and a reason where it has none.

        Example:
            >>> model = thawline.load("stamps")
            >>> answers = model.predict(["photos/bird/crow.png", b"no picture"])
            >>> answers["label"][0], answers["reason"][1] is None
            ('bird', False)

        Args:
            records: Paths of files or folders, s3:// addresses, or bytes.
            texts: Records themselves, as text.

        Raises:
            InputError: There is no record, or no such file.
        """
        import pandas as pd

        from pipelines.predictions.prediction import answered, listed

        given = [records] if isinstance(records, Path | str | bytes) else records
        wanted: list[Record] = [record for one in given for record in _records(one)]
        wanted += listed([], texts, []) if texts or not wanted else []
        rows = []
        for record, said in answered(self._served, wanted):
            told = {"reason": said} if isinstance(said, str) else {**said, "reason": None}
            rows.append({"record": record.printable(), **told})
        columns = ["record", *self._served.metadata.get_output_schema().input_names(), "reason"]
        return pd.DataFrame(rows, columns=columns)


def load(model: str, *, home: str | Path | None = None, tracking_uri: str | None = None) -> Model:
    """Download a version of a registered model, check its files, and load it.

    Example:
        >>> model = thawline.load("stamps@champion")
        >>> model.name, model.version
        ('stamps', '1')

    Args:
        model: NAME, NAME@alias or NAME/version; the default alias is champion.
        home: See `run`.
        tracking_uri: See `run`.

    Raises:
        InputError: There is no such model or version.
        StepError: Its files are not what was registered.
    """
    from pipelines.commands.options import check_model
    from pipelines.predictions.prediction import opened, split_name

    _use_home(home, tracking_uri)
    name, wanted = split_name(model)
    check_model(name)
    served, version = opened(name, wanted)
    return Model(name, version, served)


def models(*, home: str | Path | None = None, tracking_uri: str | None = None) -> list[dict[str, Any]]:
    """Return every registered model: its name, the versions that its aliases point to, and how many it has.

    Example:
        >>> [(model["name"], model["champion"]) for model in thawline.models()]
        [('stamps', '1')]

    Args:
        home: See `run`.
        tracking_uri: See `run`.
    """
    from pipelines.commands.options import has_store

    _use_home(home, tracking_uri)
    if not has_store():
        return []
    from components.core.registry import versions
    from components.core.tracking.service import connection

    connection.open_store()
    return versions.models()


def _use_home(home: str | Path | None, tracking_uri: str | None) -> None:
    from pipelines.commands.options import use_home

    use_home(None if home is None else Path(home), tracking_uri)


def _records(one: One) -> "list[Record]":
    from pipelines.predictions.prediction import Record, listed

    if isinstance(one, bytes):
        return [Record("file", f"{len(one)} bytes", lambda: one)]
    return listed([str(one)], [], [])
