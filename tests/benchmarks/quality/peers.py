"""What Thawline is compared with, each in a fresh process on exactly Thawline's splits.

`python -m tests.benchmarks.quality.peers '{"peer": "probe", "dataset": …, "settings": {…}}'`; the last line of stdout
is the result as JSON. Every peer learns from all rows but those that test, as Thawline does: none of them needs rows to
stop or to calibrate by.

probe    logistic regression on standardized features of the frozen network, C by cross-validation
tfidf    the same on TF-IDF of words and pairs of words
fastai   `vision_learner` with its own head, augmentation, size, rates and schedule: `fine_tune(epochs)`
"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from components.core.fitting.data import Data, open_data
from components.core.settings import Settings
from components.core.weight_sources import LITE0

FITTED = ("train", "validation", "calibrate")
STRENGTHS = np.logspace(-1, 3, 9)  # C on TF-IDF
SIZE, PRESIZING = 224, 460 / 224  # pixels that fastai's examples train at, and how many times larger they begin


def rows_of(data: Data) -> tuple[list[int], list[int]]:
    """Return the rows that a peer learns from, and those that it is measured on."""
    return [row for split in FITTED for row in data.rows[split]], data.rows["test"]


def targets_of(data: Data, rows: Sequence[int]) -> "np.ndarray[Any, Any]":
    """Return the position of each row's class, int64[N]."""
    places = {name: place for place, name in enumerate(data.examples.classes)}
    return np.array([places[label] for label in data.examples.labels(rows)])


def linear_probe(data: Data) -> dict[str, float]:
    """Logistic regression on the frozen network's features."""
    from tests.benchmarks.quality.probe import frozen_features, probe

    fitted, test = rows_of(data)
    rows = [*fitted, *test]
    where = np.arange(len(rows))
    found = probe(frozen_features(data, rows), targets_of(data, rows), where[: len(fitted)], where[len(fitted) :])
    return found._asdict()


def tfidf(data: Data) -> dict[str, float]:
    """Logistic regression on TF-IDF, C by cross-validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    from components.core.inference import texts

    fitted, test = rows_of(data)
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    words, others = (data.examples.contents(rows) for rows in (fitted, test))
    inputs = vectorizer.fit_transform([texts.decode(content) for content in words])
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": STRENGTHS}, scoring="neg_log_loss", cv=3)
    search.fit(inputs, targets_of(data, fitted))
    return figures(search.predict_proba(vectorizer.transform(map(texts.decode, others))), targets_of(data, test))


def fastai(data: Data, epochs: int) -> dict[str, float]:
    """Run `fine_tune` of fastai on the same network from the same weights; at 224 pixels, or at the size of the run."""
    import torch
    from fastai.callback import progress, schedule  # noqa: F401 - they add `no_bar` and `fine_tune` to Learner
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import IndexSplitter, Normalize
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageBlock
    from fastai.vision.learner import vision_learner
    from timm import get_pretrained_cfg

    from components.core.networks.weights import load_state

    fitted, test = rows_of(data)
    rows, names = [*fitted, *test], data.examples.classes
    size = data.settings.image_size or SIZE
    labels = dict(zip(data.examples.uris(rows), data.examples.labels(rows), strict=True))
    cfg = get_pretrained_cfg("tf_efficientnet_lite0")
    loaders = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=names)),
        get_x=opened,
        get_y=lambda uri: labels[uri],
        splitter=IndexSplitter(range(len(fitted), len(rows))),
        item_tfms=Resize(round(size * PRESIZING)),
        batch_tfms=[*aug_transforms(size=size, min_scale=0.75), Normalize.from_stats(cfg.mean, cfg.std)],
    ).dataloaders(list(labels))
    learner = vision_learner(loaders, "tf_efficientnet_lite0", normalize=False, n_out=len(names), pretrained=False)
    # the weights come from the package, not from a hub
    state = {name: tensor for name, tensor in load_state(LITE0).items() if not name.startswith("classifier")}
    learner.model[0].model.load_state_dict(state)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs)
        chances, targets = learner.get_preds(dl=loaders.valid)
    return figures(torch.as_tensor(chances).numpy(), torch.as_tensor(targets).numpy())


def opened(uri: str) -> Any:
    """Open a picture as Thawline sees it: upright, on white where it is transparent."""
    from fastai.vision.core import PILImage

    from components.core.inference import images

    return PILImage.create(np.asarray(images.decode(Path(uri).read_bytes())))


def figures(chances: "np.ndarray[Any, Any]", targets: "np.ndarray[Any, Any]") -> dict[str, float]:
    """Return accuracy and log loss of probabilities [N, K]."""
    from tests.benchmarks.quality.probe import log_loss

    return {"accuracy": float((chances.argmax(1) == targets).mean()), "log_loss": log_loss(chances, targets)}


PEERS: dict[str, Callable[[Data], dict[str, float]]] = {
    "probe": linear_probe,
    "tfidf": tfidf,
    "fastai-5": partial(fastai, epochs=5),
    "fastai-10": partial(fastai, epochs=10),
}


def main() -> None:
    """Measure the peer of the command line."""
    spec = json.loads(sys.argv[1])
    settings = Settings.model_validate(spec["settings"])
    if spec["peer"].startswith("fastai"):
        import torch

        torch.manual_seed(settings.seed)
        np.random.seed(settings.seed)  # noqa: NPY002 - fastai draws from the global generator
    found = PEERS[spec["peer"]](open_data(Path(spec["dataset"]), settings))
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
