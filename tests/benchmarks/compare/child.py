"""One measured run in a fresh process: `python -m tests.benchmarks.compare.child '{"job": "phases", ...}'`.

The last line of stdout is the result as JSON. The clock begins after the imports, with the data prepared, and stops
whenever accuracy is measured. It covers building the network, decoding the pictures and, for Thawline, its plan, its
exported engine and its pass below the line.

Thawline sets its own allocator (`components/core/compute/allocator.py`). `plain-kept` is the plain loop with the same
setting; all other peers have the allocator as it comes.
"""

import copy
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.core.compute import device
from components.core.contract.listener import Callbacks
from components.core.fitting.data import open_data
from components.core.settings import Settings
from components.core.training.phase import build_network, train_phase
from tests.benchmarks.compare import plain
from tests.benchmarks.compare.recipe import Clock, Tester, peer_network, pictures_of

SAMPLING = 0.05  # seconds between two looks at the memory


def status(name: str) -> float:
    """A figure of this process from the kernel, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


@contextmanager
def memory(result: dict[str, Any]) -> Iterator[None]:
    """Put memory in MB into the result: `before` (imports), `anonymous` (peak) and `resident` (peak, with files)."""
    result["before"], peak, stop = status("RssAnon"), [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(SAMPLING):
            peak[0] = max(peak[0], status("RssAnon"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()
    result["anonymous"], result["resident"] = max(peak[0], status("RssAnon")), status("VmHWM")


def import_system(system: str) -> None:
    """Import what a run needs: imports are not on the clock."""
    import timm  # noqa: F401 - for its side effect: it is loaded

    from components.tasks import image_classification  # noqa: F401 - as above

    if system == "fastai":
        from tests.benchmarks.compare import fastai_loop  # noqa: F401 - as above
    if system == "lightning":
        from tests.benchmarks.compare import lightning_loop  # noqa: F401 - as above


def peer_phase(system: str) -> Any:
    """A peer's function that trains one phase."""
    if system == "fastai":
        from tests.benchmarks.compare import fastai_loop

        return fastai_loop.train_phase
    if system == "lightning":
        from tests.benchmarks.compare import lightning_loop

        return lightning_loop.train_phase
    return plain.train_phase


def phases(system: str, dataset: Path, settings: Settings, thaws: list[int]) -> dict[str, Any]:
    """The head phase, then each of `thaws` from that head; a mark holds the seconds of head and thawed phase together.

    Thawline gets at most one depth in a run: its phases share a store, the peers' phases share nothing.
    """
    import_system(system)
    data, chosen = open_data(dataset, settings), settings.defaults()
    tester = Tester(data, build_network(data, chosen).preprocessing, keep=False)
    marks: dict[str, dict[str, float]] = {}
    result: dict[str, Any] = {"marks": marks}
    peer = None if system == "thawline" else peer_network(data, chosen)
    with memory(result):
        if peer is None:
            clock = Clock()
            data = open_data(dataset, settings)
            network = build_network(data, chosen)
            # the head phase's pass also keeps what the thawed phase is going to need
            chosen = chosen.model_copy(update={"thaw": thaws[0] if thaws else 0})
            run = lambda thaw: train_phase(network, data, chosen, thaw=thaw)  # noqa: E731
        else:
            network, phase = peer, peer_phase(system)
            clock = Clock()
            pictures = pictures_of(data, network.preprocessing)
            run = lambda thaw: phase(network, pictures, settings, chosen, thaw)  # noqa: E731
        run(0)
        seconds = clock.now()
        marks["head"] = {"seconds": seconds, "accuracy": tester.accuracy(network, len(network.stages))}
        head = copy.deepcopy(network.state_dict())
        for thaw in thaws:
            network.load_state_dict(head)
            clock = Clock()
            run(thaw)
            taken = seconds + clock.now()
            marks[f"thaw{thaw}"] = {"seconds": taken, "accuracy": tester.accuracy(network, len(network.stages) - thaw)}
    return result


def defaults(system: str, dataset: Path, settings: Settings) -> dict[str, Any]:
    """A system with its own defaults: `curve` holds seconds and test accuracy after every epoch."""
    import_system(system)
    data, chosen = open_data(dataset, settings), settings.defaults()
    like = build_network(data, chosen)
    tester, curve = Tester(data, like.preprocessing, keep=True), list[list[float]]()
    peer = None if system == "thawline" else peer_network(data, chosen)
    result: dict[str, Any] = {"curve": curve}
    clock = Clock()

    def report(network: nn.Module, line: int = 0) -> None:
        with clock.pause() as seconds:
            curve.append([seconds, tester.accuracy(network, line)])

    with memory(result):
        if peer is None:
            data = open_data(dataset, settings)
            network = build_network(data, chosen)
            for thaw in (0, chosen.thaw):
                line = len(network.stages) - thaw
                train_phase(
                    network,
                    data,
                    chosen,
                    thaw=thaw,
                    listener=Callbacks(epoch=lambda _f, line=line: report(network, line)),
                )
            with clock.pause():
                final = tester.accuracy(network, len(network.stages) - chosen.thaw)
        else:
            pictures = pictures_of(data, peer.preprocessing)
            if system == "fastai":
                from tests.benchmarks.compare.fastai_loop import own_defaults

                own_defaults(pictures, settings, len(data.examples.classes), report)
            else:
                from tests.benchmarks.compare import lightning_loop

                lightning_loop.own_defaults(peer, pictures, settings, report)
            final = curve[-1][1]
        result |= {"seconds": clock.now(), "accuracy": final}
    return result


def main() -> None:
    """Run the job of the command line."""
    spec = json.loads(sys.argv[1])
    job, system = spec.pop("job"), spec.pop("system")
    os.environ["THAWLINE_HOME"] = spec.pop("home")
    if system not in ("thawline", "plain-kept", "machine"):
        device.keep_freed_memory = lambda: False  # a peer's process has the allocator as it comes
    dataset, settings = Path(spec.pop("dataset")), Settings.model_validate(spec.pop("settings"))
    if job == "phases":
        result = phases(system, dataset, settings, spec["thaws"])
    elif job == "defaults":
        result = defaults(system, dataset, settings)
    elif job == "limit":
        from tests.benchmarks.compare.limit import limit

        result = limit(dataset, settings)
    else:
        from tests.benchmarks.compare import searches

        if system == "thawline":
            result = searches.thawline(dataset, settings)
        else:
            result = searches.plain_search(dataset, settings, spec["trials"])
    result |= {"threads": torch.get_num_threads(), "time": time.time()}
    print(f"\n{json.dumps(result)}")


if __name__ == "__main__":
    main()
