"""A model in words, for its report: network, weights, sizes, speed, and the command that made it."""

import math
import os
from pathlib import Path

from components.core.command_line import command_of
from components.core.contract.task import load_task
from components.core.evaluation.comparison import Trained
from components.core.settings import Settings

MEGABYTE = 1e6


def resolved(settings: Settings, trained: Trained) -> dict[str, str]:
    """Return what defaults came to: the network, its weights, and the input that it takes."""
    network, facts = trained
    side = facts["preprocessing"].get("size")
    return {
        "network": settings.backbone or load_task(settings.task).backbone,
        "pretrained_weights": settings.weights,
        **({"input_size": str(side)} if side else {}),
        "stages_thawed": f"{facts['thawed']} of {len(network.stages)}",
        "parameters": str(sum(one.numel() for one in network.parameters())),
    }


def described(
    settings: Settings, source: str, trained: Trained, served: Path, seconds: float, kind: str
) -> dict[str, str]:
    """Return rows of a table about the model, by what they are called.

    Args:
        settings: The run's.
        source: Where its data came from.
        trained: The network, and the facts of its checkpoint.
        served: Folder of the served model.
        seconds: That it takes for a row as served; NaN where nobody measured.
        kind: What rows are: pictures, texts, sounds, or rows.
    """
    found = resolved(settings, trained)
    size = sum(file.stat().st_size for file in served.rglob("*") if file.is_file())
    one = kind.removesuffix("s")
    pod = bool(os.environ.get("THAWLINE_RUN_KEY"))
    return {
        "network": found["network"],
        "pretrained weights": f"{found['pretrained_weights']} ({trained[1]['weights_digest'][:12]})",
        **({"input": f"{found['input_size']} × {found['input_size']} pixels"} if "input_size" in found else {}),  # noqa: RUF001 - the sign
        "stages thawed": found["stages_thawed"],
        "parameters": f"{int(found['parameters']):,}",
        "size": f"{size / MEGABYTE:.1f} MB as served",
        **(
            {} if math.isnan(seconds) else {"speed": f"{1000 * seconds:.1f} ms a {one} as served, measured by this run"}
        ),
        "made by": command_of(settings, source, "submit" if pod else "run"),
    }
