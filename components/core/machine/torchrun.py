"""The place of this process among those that torchrun started for a step: the first one records and writes."""

import os


def launched() -> bool:
    """Return whether torchrun (or Kubeflow Trainer through it) started several processes of this step."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_helper() -> bool:
    """Return whether this process only computes: it is not the first one started by torchrun."""
    return launched() and os.environ["RANK"] != "0"
