"""Names of tags and metrics in MLflow, each spelled once."""

RUN_KEY = "thawline.run_key"
KIND = "thawline.kind"
MODEL = "thawline.model"
PARENT = "mlflow.parentRunId"
STEP = "thawline.step"  # of a step's run: its name here, where Kubeflow's plugin gave the run another one
ADOPTED = "thawline.adopted"  # "true": Kubeflow's plugin made the pipeline's run, and ends it
ALIVE = "thawline.alive"  # of the pipeline's run: seconds since the epoch and the process, while a step works
LEASE = "thawline.lease"  # of the pipeline's run; see leases.py
HELD, NONE = "held", "none"  # its values, beside one that leases.py alone knows
LOST = "thawline.failure"  # why a run failed, or was lost
ERROR = "thawline.error"  # of a step: kind and sentences of an expected error
SAVED = "saved_seconds"  # metric of a step, and of the pipeline
METRIC = "thawline.metric"  # of the pipeline and of a version: what the target names first
CANDIDATE = "candidate"
TAG_LENGTH = 5000  # characters that every store of MLflow takes
