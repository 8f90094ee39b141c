"""Names of tags in MLflow, each spelled once. What one version writes, later ones read: a name stays."""

TAG_LENGTH = 5000  # characters that every store of MLflow takes

# Of every run.
RUN_NAME, PARENT = "mlflow.runName", "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # the description, in Markdown; of an experiment too
OUTCOME = ": "  # in the name of a pipeline's run, behind what it came to
RUN_KEY = "thawline.run_key"  # of a version and its logged model too: of the pipeline run that made it
KIND, MODEL = "thawline.kind", "thawline.model"
CANDIDATE = "candidate"  # a kind

# Of the pipeline's run: its life.
ADOPTED = "thawline.adopted"  # "true": Kubeflow's plugin made the pipeline's run, and ends it
ALIVE = "thawline.alive"  # seconds since the epoch and the process, while a step works
IDLE = "thawline.idle"  # seconds between its ends and the starts from which it went on
LEASE = "thawline.lease"  # see leases.py
HELD, NONE = "held", "none"  # its values, beside one that leases.py alone knows
CLUSTER = "thawline.cluster"  # the Kubeflow whose id of the run is its key
FAILURE = "thawline.failure"  # why the run failed, or was lost
CUT = "thawline.cut."  # with the step that stopped early behind it
COST = "thawline.cost"  # in words
NOTIFIED = "thawline.notified"

# Of the pipeline's run: what it started from, and what was decided about it.
SETTINGS_DIGEST = "thawline.settings_digest"  # of a version too
PARTS = "thawline.inputs"
INPUT_DIGEST = "thawline.input_digest"
DATA_DIGEST = "thawline.data_digest"
GATE_DIGEST = "thawline.gate_digest"
DATASET_DIGEST, WEIGHTS_DIGEST = "thawline.dataset_digest", "thawline.weights_digest"  # of steps and of a version too
INDEXED = "thawline.index"  # "true": the run has an index of its source
CHANGE, CHANGE_REASON = "thawline.change", "thawline.change_reason"  # what was decided: train, judge, skip or busy
SKIPPED = "thawline.skipped"  # "true"
SAME_AS = "thawline.same_as"  # the earlier run that a skipped run stands for, or whose version is judged again
WARM_START = "thawline.warm_start"  # the version that training started from; of a version too
VERSION = "thawline.version"  # what `register` registered; of `fine_tune`, the version that it gave back
SMOKE_TESTED = "thawline.smoke_tested"  # digest of the served files that answered in a process without Thawline
PROMOTED = "thawline.promoted"  # "true": it became champion at once
PRETRAINED = "thawline.pretrained"  # the folder that the weights of a pretraining were written to
PENDING = "thawline.pending"  # how to approve the version; of a version that waits "true"

# Of steps and trials.
STEP = "thawline.step"  # its name here, where Kubeflow's plugin gave the run another one
ERROR = "thawline.error"  # kind and sentences of an expected error
INPUT_ERROR_AT = "thawline.input_error_at"  # seconds since the epoch, of an error that lasts
NOTES = "thawline.notes"
DETECTED_INPUTS = "thawline.detected_inputs"
SALT = "thawline.salt"  # of the lineage; the run has its files
ACCEPTED_LABELS = "thawline.accepted_labels"  # how many, of a run that is no step
STUDY, WORKER, TRIAL_STATE = "thawline.study", "thawline.worker", "thawline.trial_state"
THAWING_HELPED = "thawline.thawing_helped"
LOOK, HORIZON_OPENED = "thawline.look", "thawline.horizon_opened"  # of a run that has looked at the test rows

# Of the pipeline's run and of a version: how it was judged.
ACCEPTED = "thawline.accepted"  # "true" or "false"
DECISION = "thawline.decision"
REFERENCE = "thawline.reference"  # which simple model it does not beat, in a sentence, if there is one
EVIDENCE = "thawline.evidence"  # of an entry of the ledger: the id of the pipeline run that has it
METRIC = "thawline.metric"  # what the target names first
COMPARED_WITH = "thawline.compared_with"  # the champion then; of a run no tag where there was none
EVIDENCE_RUN = "thawline.evidence_run"  # the pipeline run that judged a version; it may not be the one that made it

# Of a version alone.
ARTIFACT_DIGEST, CODE_REVISION = "thawline.artifact_sha256", "thawline.code_revision"
BACKBONE, THAWED = "thawline.backbone", "thawline.thawed"

# Of an entry of the ledger; see ledger.py.
ACTION, FROM, TO = "thawline.action", "thawline.from", "thawline.to"
WHY, WHO = "thawline.why", "thawline.who"
MARK, REASON, WITHDRAWN = "thawline.mark", "thawline.reason", "thawline.withdrawn"


def figure(metric: str) -> str:
    """The tag of a version that holds the value of a metric on the test rows."""
    return f"thawline.{metric}"


def equals(tag: str, value: str) -> str:
    """The condition of a search that a tag has a value."""
    return f"tags.`{tag}` = '{value}'"


def is_set(tag: str) -> str:
    """The condition of a search that a tag is there, and not empty."""
    return f"tags.`{tag}` != ''"
