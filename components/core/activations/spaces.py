"""Places of kept activations: a space for each line, addressed by all that its rows depend on."""

import contextlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from components.core.activations import store
from components.core.compute.device import computed_in
from components.core.digests import digest
from components.core.networks.network import Network
from components.core.networks.weights import state_digest
from components.core.storage import home_folder

FIXED_BATCHES_ENGINE = "eager in fixed batches"  # the engine of rows whose bits count
LIBRARIES = ("thawline", "torch", "torchvision", "timm", "pillow")  # that any row may depend on


def spaces(network: Network, precision: str) -> list[Path]:
    """The space of every line, the network's own folder in the store; index 0 is the input, which is never kept."""
    stages = [state_digest(stage.state_dict()) for stage in network.stages]
    texts = [str(stage) for stage in network.stages]
    first = next(network.parameters())
    common = {
        "preprocessing": network.preprocessing,
        "precision": precision,
        "computed": str(computed_in(first.device, first.dtype)),
        "device": first.device.type,
        "libraries": _libraries(network),
        **({"config": network.config} if network.config else {}),
    }
    keys = [digest([common, texts[:line], stages[:line]])[:32] for line in range(len(stages) + 1)]
    return [store.store() / key for key in keys]


def describe(space: Path, network: Network, line: int, precision: str, row_seconds: float = 0.0) -> None:
    """Note what a space holds, and the seconds that computing a row of it takes, where they were measured."""
    space.mkdir(parents=True, exist_ok=True)
    facts = {
        "weights_digest": network.weights_digest,
        "line": line,
        "stages": len(network.stages),
        "preprocessing": network.preprocessing,
        "precision": precision,
        **({"row_seconds": row_seconds} if row_seconds else {}),
    }
    if row_seconds or not (space / "space.json").exists():
        home_folder.write_text(space / "space.json", json.dumps(facts, indent=1))


def row_seconds(space: Path) -> float:
    """Return the seconds to compute a row of a space; 0 if never measured."""
    try:
        return float(json.loads((space / "space.json").read_text()).get("row_seconds", 0.0))
    except (OSError, ValueError, TypeError, AttributeError):  # gone, or damaged
        return 0.0


def accepts(engine: str) -> bool:
    """Return whether rows of that engine may be used: engines agree within rounding, not in every bit."""
    return engine == FIXED_BATCHES_ENGINE or not torch.are_deterministic_algorithms_enabled()


def _libraries(network: Network) -> dict[str, str]:
    """Versions of the libraries that compute, and of those that the stages' modules come from."""
    found = {name: version(name) for name in LIBRARIES}
    for name in sorted({type(module).__module__.partition(".")[0] for module in network.stages.modules()}):
        with contextlib.suppress(PackageNotFoundError):  # a user's own module
            found[name] = version(name)
    return found
