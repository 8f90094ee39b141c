"""Speeds of engines as they were measured, kept by stages, machine and libraries: a later pass measures nothing.

A file for each network and machine, `<digest>.json`, has the seconds per example of every engine that was equal to
eager. Which one pays is decided anew, since that depends on the number of examples.
"""

import json
import math
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from components.core.compute.onnx_exports import Prefix, identity
from components.core.digests import digest
from components.core.storage.home_folder import write_text

CPUS = Path("/proc/cpuinfo")


def place_of(prefix: Prefix, folder: Path) -> Path:
    """The file of these stages on this machine, named after all that their speeds depend on."""
    return folder / f"{digest([*identity(prefix), _machine(prefix.device)])[:32]}.json"


def recall(place: Path) -> dict[str, float]:
    """Seconds per example by the way an engine is made; empty if nothing was measured, or the file is damaged."""
    try:
        found = {str(way): float(seconds) for way, seconds in json.loads(place.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return found if all(seconds > 0 and math.isfinite(seconds) for seconds in found.values()) else {}


def remember(place: Path, seconds: Mapping[str, float]) -> None:
    """Keep what was measured; a home that can't be written to means another measurement."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, json.dumps(dict(seconds)))


def _machine(device: torch.device) -> list[str | int]:
    """Identify the hardware: the processor with the threads that this process has, or the GPU."""
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device)]
    with suppress(OSError):
        models = [line.partition(":")[2].strip() for line in CPUS.read_text().splitlines() if "model name" in line]
        if models:
            return [models[0], torch.get_num_threads()]
    return [platform.processor() or platform.machine(), torch.get_num_threads()]
