"""Run steps in the image as a cluster would: another user than root, a root file system that can't be written.

`docker run --rm -i --read-only --tmpfs /tmp thawline-python:latest python - < docker/smoke.py`; on a cluster,
`kubectl run` with the same image and command. Prints one line of JSON.
"""

import importlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

# what steps import late, so that a missing library shows here and not in the middle of a run
LIBRARIES = "boto3 kfp.dsl.executor_main kfp.kubernetes mlflow onnxruntime optuna psycopg timm torch torchvision"


def main() -> None:
    """Look for changes and prepare 24 pictures.

    Raises:
        SystemExit: The container's user is root, or its root file system can be written.
    """
    if os.getuid() == 0 or os.access("/", os.W_OK):
        raise SystemExit("Run as another user than root, with --read-only.")
    for library in LIBRARIES.split():
        importlib.import_module(library)
    from components.core import run_folder
    from components.core.settings import Settings
    from components.core.tracking.service import local_store
    from components.detect_changes import detect_changes
    from components.prepare_data import prepare_data

    local_store.migrate()
    settings, run_key = Settings(model="smoke", weights="none").to_json(), run_folder.new_run_key()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "pictures"
        _write_pictures(source)
        changed, _, inputs = detect_changes(str(source), settings, run_key)
        info = prepare_data(str(source), settings, run_key, Path(folder) / "dataset", inputs)
    print(json.dumps({"uid": os.getuid(), "changed": changed, "digest": info.digest, "classes": info.classes}))


def _write_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 128, (32, 32, 3), dtype=np.uint8) + 127 * (name == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


if __name__ == "__main__":
    main()
