"""`thawline predict`: answers of a model of the registry."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from components.core.errors import InputError
from pipelines.commands.options import (
    HomeOption,
    JsonOption,
    TrackingOption,
    check_model,
    use_home,
)

app = typer.Typer()


@app.command(
    epilog="Examples: thawline predict --model stamps@champion photo.jpg; thawline predict --model mood --text 'Fine!'"
)
def predict(
    files: Annotated[list[Path] | None, typer.Argument(help="Files to answer, one record each.")] = None,
    *,
    text: Annotated[list[str] | None, typer.Option(help="A record to answer, given here; several times.")] = None,
    model: Annotated[str, typer.Option(help="NAME, NAME@alias or NAME/version; the alias is champion if not given.")],
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer files with a model of the registry, or text that is given here."""
    use_home(home, tracking_uri)
    files, said = files or [], text or []
    if not files and not said:
        raise InputError("There is nothing to answer.", "Give the paths of files, or --text.")
    name, _, wanted = model.replace("/", "@").partition("@")
    check_model(name)
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InputError(f"There is no file {missing[0]}.", "Give the paths of files to answer.")
    from components.core.registry import versions
    from components.core.tracking import connection, pyfunc

    connection.open_store()
    with tempfile.TemporaryDirectory() as folder:
        path, version = versions.fetch(name, wanted or "champion", Path(folder))
        served = pyfunc.load_pyfunc(path)
        found = _answers(served, [*files, *said])
    asked = [*({"file": str(path)} for path in files), *({"text": line} for line in said)]
    rows = [{**record, **row} for record, row in zip(asked, found, strict=True)]
    if as_json:
        sys.stdout.write(json.dumps({"model": name, "version": version, "predictions": rows}) + "\n")
        return
    for record, row in zip(asked, found, strict=True):
        sys.stdout.write("\t".join([*record.values(), *map(_told, row.values())]) + "\n")


def _told(value: Any) -> str:  # noqa: ANN401 - a cell of an answer
    """A cell as the terminal shows it: of a list all, of figures by name the highest."""
    if isinstance(value, dict):
        return f"{max(value.values(), default=0.0):.3f}"
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _answers(served: Any, records: Sequence[Path | str]) -> list[dict[str, Any]]:  # noqa: ANN401 - mlflow's, untyped
    from components.core.registry.serving import answers

    column = served.metadata.get_input_schema().input_names()[0]

    def ask(some: Sequence[Path | str]) -> list[dict[str, Any]]:
        found = answers(served, column, len(some), lambda a, b: [content(record) for record in some[a:b]])
        return found.to_dict("records")  # type: ignore[return-value]  # pandas types the keys as Hashable

    def content(record: Path | str) -> bytes:
        return record.encode() if isinstance(record, str) else record.read_bytes()

    try:
        return ask(records)
    except ValueError:  # one by one, to name the file
        for record in records:
            try:
                ask([record])
            except ValueError as error:
                raise InputError(
                    f"{str(record)!r} can't be answered: {error}.", "Give records of the kind the model takes."
                ) from None
        raise
