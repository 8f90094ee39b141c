"""Which of the processes of a step this one is, where torchrun started several: the first records and writes."""

import os


def launched() -> bool:
    """Whether somebody else started several processes of this step: torchrun, or Kubeflow Trainer by it."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_helper() -> bool:
    """Whether this process only computes, because it is not the first of those that torchrun started."""
    return launched() and os.environ["RANK"] != "0"
