"""What kept maps cost and save for detection: bytes a picture at each thaw line, and seconds of an epoch of the head.

`python -m tests.benchmarks.detection boxes.jsonl --rows 64` prints both, in CPU seconds of one thread, so that other
processes on the machine don't count. The usual loop decodes each picture and runs the whole network in every epoch.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils._pytree import tree_leaves

from components.core.contract.listener import SILENT
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.fitting.data import Data, open_data
from components.core.fitting.loop import make_optimizer
from components.core.networks.network import set_thawed, set_training
from components.core.settings import Hyperparameters, Settings
from components.core.training.phase import base_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--backbone", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package:efficientnet-lite0")
    parser.add_argument("--image-size", type=int, default=0)
    parser.add_argument("--depth", default="2", help="convolutions of each of the head's towers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(
        task="object_detection", model="boxes", backbone=given.backbone, weights=given.weights,
        image_size=given.image_size, option={"depth": given.depth}, device="cpu",
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        prepare(given.source, settings, Path(folder), Lineage(salt="0"), SILENT.progress)
        _measure(open_data(Path(folder), settings), given.rows)


def _measure(data: Data, rows: int) -> None:
    network = base_network(data, Hyperparameters())
    contents = data.examples.contents(data.rows["train"][:rows])
    targets = data.targets["train"][:rows]
    size = data.settings.batch_size
    sample = data.task.encode(contents[:2], network.preprocessing)
    for line in range(len(network.stages) + 1):
        with torch.no_grad():
            leaves = tree_leaves(network.below(sample, line))
        whole = sum(leaf[0].nbytes for leaf in leaves)
        half = sum(leaf[0].nbytes // (2 if leaf.is_floating_point() else 1) for leaf in leaves)
        print(f"line {line}: {len(leaves)} tensors, {whole / 1000:.0f} kB a picture, {half / 1000:.0f} kB in float16")
    line = set_thawed(network, 0)
    optimizer = make_optimizer(network, line, "adamw", 1e-3, 1.0, 0.0)

    def step(inputs: object, some: slice, start: int) -> None:
        set_training(network, line)
        with torch.no_grad():
            maps = network.below(inputs, line, start)
        loss = data.target.loss(network.above(maps, line), targets[some], 0.0, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    batches = [slice(begin, begin + size) for begin in range(0, rows, size)]
    with torch.no_grad():
        kept = [network.below(data.task.encode(contents[some], network.preprocessing), line) for some in batches]
    found = {}
    for name in ("kept", "usual", "kept", "usual"):
        begin = time.process_time()
        for some, maps in zip(batches, kept, strict=True):
            if name == "kept":
                step(maps, some, line)
            else:
                step(data.task.encode(contents[some], network.preprocessing), some, 0)
        found[name] = min(found.get(name, 1e9), (time.process_time() - begin) / rows)
    print(f"kept maps: {found['kept'] * 1000:.1f} ms a picture; usual loop: {found['usual'] * 1000:.1f} ms")
    print(f"{found['usual'] / found['kept']:.1f} times as fast")


if __name__ == "__main__":
    main()
