"""Whether kept activations teach a detector what the usual loop does: test mAP of both, on real pictures.

    python -m tests.benchmarks.detection_agreement boxes.jsonl --weights package:efficientnet-lite0

Both train the same head and then thaw the same stages, from the same seed. The one keeps the maps at the thaw line on
disk, the other decodes each picture and runs the frozen stages in every epoch, as a loop without a cache.
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from components.core.contract.listener import SILENT
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.fitting.data import Data, open_data
from components.core.settings import Settings
from components.core.training.phase import base_network, outputs_by_batch, train_phase


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    for name, default in (("backbone", "timm/tf_efficientnet_lite0"), ("weights", "default")):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("head-epochs", 8), ("thaw-epochs", 3), ("thaw", 2)):
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(
        task="object_detection", model="boxes", backbone=given.backbone, weights=given.weights, head_solver="sgd",
        label_smoothing=0.0, head_epochs=given.head_epochs, thaw=given.thaw, thaw_epochs=given.thaw_epochs,
        device="cpu",
    )  # fmt: skip
    print("| activations | head: mAP | mAP50 | thawed: mAP | mAP50 | CPU s |\n|---|---|---|---|---|---|", flush=True)
    with TemporaryDirectory() as folder:
        prepare(given.source, settings, Path(folder), Lineage(salt="0"), SILENT.progress)
        for activations in ("keep", "recompute"):
            chosen = settings.model_copy(update={"activations": activations})
            figures = _trained(open_data(Path(folder), chosen))
            print(f"| {activations} | {' | '.join(figures)} |", flush=True)


def _trained(data: Data) -> list[str]:
    """Figures on the test rows after both phases, and the seconds of both."""
    begin, chosen, found = time.process_time(), data.settings.defaults(), list[str]()
    network = base_network(data, chosen)
    for thaw in (0, chosen.thaw):
        train_phase(network, data, chosen, thaw=thaw)
        metrics = _tested(data, network, thaw)
        found += [f"{metrics['map']:.4f}", f"{metrics['map50']:.4f}"]
    return [*found, f"{time.process_time() - begin:.0f}"]


def _tested(data: Data, network: torch.nn.Module, thaw: int) -> dict[str, float]:
    serving = {"classes": data.examples.classes, "threshold": 0.5}
    parts = outputs_by_batch(network, data, thaw, "test")
    answers = pd.DataFrame([one for part in parts for one in data.target.answers(part, serving)])
    labels = data.examples.labels(data.rows["test"])
    training = Counter(data.examples.labels(data.rows["train"]))
    return dict(data.target.evaluate(answers, labels, data.examples.classes, training).metrics)


if __name__ == "__main__":
    main()
