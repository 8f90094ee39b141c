"""The DAG's steps on Kubernetes: the options of `thawline submit`, and the DAG compiled with them.

The tasks are those of pipelines/fine_tuning.py; `configured` gives each of them image, resources, secrets and volumes.
"""

import hashlib
import os
import re
import runpy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

LIGHT = ("detect_changes", "select_trial", "register", "finish")
HEAVY = ("prepare_data", "search", "train_head", "fine_tune", "evaluate")
ACCELERATED = ("search", "train_head", "fine_tune", "evaluate")
STEPS = (*HEAVY, *LIGHT)
SAME_PODS = {"search_worker": "search"}  # tasks of the DAG that are a step under another name
# The DAG, by how it searches.
FINE_TUNING, SEARCHING_IN_PODS = "fine_tuning", "fine_tuning.searching_in_pods"
WITHOUT_SEARCH = "fine_tuning.without_search"
REST = "default"  # in a mapping by step: every step that is not named
HOME = "/thawline"  # THAWLINE_HOME in the pods
STORAGE = "THAWLINE_STUDY_STORAGE"
RETRY_MINUTES = "THAWLINE_RETRY_MINUTES"
SECRET = re.compile(r"(?P<secret>[a-z0-9][a-z0-9.-]*):(?P<key>[\w.-]+)(?:=(?P<name>[A-Za-z_]\w*))?")
# in an address, and by the name of a variable; the compiled DAG, its runs and schedules keep plain values in clear
PASSWORD = re.compile(r"://[^/@]*:[^/@]*@|[?&]password=", re.IGNORECASE)
PRIVATE = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|SECRET_ACCESS_KEY|SECRET_KEY|API_KEY|WEBHOOK_URL)$", re.IGNORECASE)
MAX_BACKOFF = "2592000s"  # 30 days: longer than any step runs
EFFECT = "NoSchedule|PreferNoSchedule|NoExecute"
TOLERATION = re.compile(rf"(?P<key>[\w./-]+)(?:=(?P<value>[\w.-]+))?(?::(?P<effect>{EFFECT}))?")
QUANTITY = r"^\d+(E|P|T|G|M|K|Ei|Pi|Ti|Gi|Mi|Ki)?$"
ByStep = dict[str, str]


class Cluster(BaseModel):
    """The options of a run's pods. A value for a named step applies to it, a plain value to all other steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    image: str = Field(
        default_factory=lambda: os.environ.get("THAWLINE_IMAGE", "thawline-python:latest"),
        description="Image of all steps (default: $THAWLINE_IMAGE).",
    )
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = Field(
        "", description="When to pull the image; empty: Kubernetes' default."
    )
    image_pull_secrets: list[str] = Field([], description="Secret to pull the image with.")
    accelerator: str = Field("nvidia.com/gpu", description="Kubernetes' name of the accelerator.")
    accelerators: ByStep = Field(
        {REST: "0"}, description="[STEP=]accelerators for each of search, train_head, fine_tune and evaluate."
    )
    cpu: ByStep = Field({REST: "2", **dict.fromkeys(LIGHT, "1")}, description="[STEP=]CPUs to request.")
    memory: ByStep = Field(
        {REST: "8Gi", **dict.fromkeys(LIGHT, "4Gi")}, description="[STEP=]memory: request and limit, such as 16Gi."
    )
    shm: str = Field("1Gi", pattern=QUANTITY, description="Size of /dev/shm, out of the step's memory; 0: the node's.")
    node_selector: dict[str, str] = Field({}, description="LABEL=VALUE that a node must have.")
    tolerations: list[str] = Field([], description="KEY[=VALUE][:EFFECT] of a taint to tolerate.")
    env: dict[str, str] = Field({}, description="NAME=VALUE in the environment; never for secrets.")
    secret_env: list[str] = Field([], description="SECRET:KEY[=NAME]: a secret's key in the environment, as NAME.")
    volume: str = Field(
        "", description="PersistentVolumeClaim for THAWLINE_HOME: activations and studies outlive a pod."
    )
    timeout: ByStep = Field({REST: "720"}, description="[STEP=]minutes after which a step is stopped; 0: never.")
    retries: int = Field(2, ge=0, description="Number of restarts of a step whose pod was lost.")
    retry_minutes: float = Field(
        10.0,
        ge=0,
        description="Minutes that a step retries when S3, a hub, a database or MLflow does not answer; 0: none.",
    )
    labels: dict[str, str] = Field({}, description="NAME=VALUE: label of the pods.")
    annotations: dict[str, str] = Field({}, description="NAME=VALUE: annotation of the pods.")
    service_account: str = Field("", description="Service account of the pods; empty: Kubeflow's default.")

    @field_validator("accelerators", "cpu", "memory", "timeout", mode="before")
    @classmethod
    def _by_step(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - what YAML or the command line hold
        items = value if isinstance(value, dict) else _pairs(value if isinstance(value, list) else [value], REST)
        unknown = sorted(items.keys() - {*STEPS, REST})
        if unknown:
            raise ValueError(f"there is no step {unknown[0]!r}; the steps are {', '.join(STEPS)}")
        kept = {} if REST in items else cls.model_fields[str(info.field_name)].default
        return {**kept, **{name: str(item) for name, item in items.items()}}

    @field_validator("node_selector", "env", "labels", "annotations", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:  # noqa: ANN401 - as above
        return _pairs(value, "") if isinstance(value, list) else value

    @model_validator(mode="after")
    def _well_formed(self) -> Self:
        for name, texts, form, what in (
            ("accelerators", self.accelerators.values(), r"\d+", "a number"),
            ("accelerators", self.accelerators, "|".join((*ACCELERATED, REST)), f"one of {', '.join(ACCELERATED)}"),
            ("cpu", self.cpu.values(), r"\d+(\.\d+)?|\d+m", "CPUs"),
            ("memory", self.memory.values(), QUANTITY, "an amount such as 16Gi"),
            ("timeout", self.timeout.values(), r"\d+", "minutes"),
            ("secret-env", self.secret_env, SECRET, "SECRET:KEY=NAME"),
            ("tolerations", self.tolerations, TOLERATION, "KEY=VALUE:EFFECT"),
        ):
            wrong = next((text for text in texts if not re.fullmatch(form, text)), None)
            if wrong is not None:
                shown = wrong.partition("=")[0] if name == "secret-env" else wrong  # it may be NAME=THE SECRET
                raise ValueError(f"--{name} can't be {shown!r}: use {what}")
        bare = [name for name, value in self.env.items() if PRIVATE.search(name) or PASSWORD.search(value)]
        if bare:
            name = bare[0]
            raise ValueError(f"--env {name} contains a secret, which every run would record: use --secret-env")
        return self

    def of(self, field: str, step: str) -> str:
        """A step's own value of `accelerators`, `cpu`, `memory` or `timeout`; empty where there is none."""
        values: ByStep = getattr(self, field)
        return values.get(step, values.get(REST, ""))

    def secrets(self) -> list[tuple[str, str, str]]:
        """Secret, key and name in the environment of each `secret_env`."""
        found = [SECRET.fullmatch(text) for text in self.secret_env]
        return [(m["secret"], m["key"], m["name"] or m["key"]) for m in found if m]

    def names(self) -> set[str]:
        """Return the names of the pods' environment variables."""
        return {*self.env, *(name for _, _, name in self.secrets())}


class Compiled(NamedTuple):
    """The DAG with its platform specification as YAML, and the digest that names its version."""

    yaml: str
    digest: str


def _pairs(texts: list[Any], rest: str) -> dict[str, str]:
    """NAME=VALUE texts as a mapping; a text without a name is `rest`'s value.

    Raises:
        ValueError: A name is missing where there has to be one.
    """
    found: dict[str, str] = {}
    for text in map(str, texts):
        name, equals, value = text.partition("=")
        if not (equals or rest) or not name:
            raise ValueError(f"{text!r} is not NAME=VALUE")
        found |= {name: value} if equals else {rest: text}
    return found


def configure(cluster: Cluster, step: str, task: Any) -> None:  # noqa: ANN401 - kfp is untyped
    """Give a task of the DAG what its pod needs.

    It is never served from Kubeflow's cache: a step writes its part of the run into MLflow, where the next steps read.
    """
    from kfp import kubernetes

    step = SAME_PODS.get(step, step)
    task.set_container_image(cluster.image)
    task.set_caching_options(False)
    task.set_cpu_request(cluster.of("cpu", step))
    task.set_memory_request(cluster.of("memory", step)).set_memory_limit(cluster.of("memory", step))
    accelerators = int(cluster.of("accelerators", step)) if step in ACCELERATED else 0
    if accelerators:
        task.set_accelerator_type(cluster.accelerator).set_accelerator_limit(accelerators)
    if cluster.retries:
        # Argo waits the first pause out even where it will not start the step again, so that one is short. Without a
        # longest duration a step that was lost after an hour would not be started again.
        task.set_retry(cluster.retries, backoff_duration="10s", backoff_factor=3, backoff_max_duration=MAX_BACKOFF)
    minutes = int(cluster.of("timeout", step) or 0)
    if minutes:
        kubernetes.set_timeout(task, minutes * 60)
    _environment(cluster, task)
    if cluster.volume:
        kubernetes.mount_pvc(task, cluster.volume, HOME)
    else:
        kubernetes.empty_dir_mount(task, "thawline-home", HOME)  # works where the root file system is read-only
    if step in HEAVY and cluster.shm != "0":  # workers of a data loader pass batches through it; the default is 64 MB
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=cluster.shm)  # noqa: S108 - the pod's
    _placing(cluster, task)


def _environment(cluster: Cluster, task: Any) -> None:  # noqa: ANN401 - as above
    from kfp import kubernetes

    own = {"THAWLINE_HOME": HOME, RETRY_MINUTES: f"{cluster.retry_minutes:g}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    for name, value in {**own, **cluster.env}.items():
        task.set_env_variable(name, value)
    # Kubeflow's id of the run: what runs with the same parameters are told apart by
    kubernetes.use_field_path_as_env(task, "THAWLINE_RUN_KEY", "metadata.labels['pipeline/runid']")
    for secret, key, name in cluster.secrets():
        kubernetes.use_secret_as_env(task, secret, {key: name})


def _placing(cluster: Cluster, task: Any) -> None:  # noqa: ANN401 - as above
    from kfp import kubernetes

    for label, value in cluster.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for match in filter(None, map(TOLERATION.fullmatch, cluster.tolerations)):
        operator: Literal["Equal", "Exists"] = "Equal" if match["value"] else "Exists"
        kubernetes.add_toleration(task, match["key"], operator, match["value"], match["effect"])
    for name, value in cluster.labels.items():
        kubernetes.add_pod_label(task, name, value)
    for name, value in cluster.annotations.items():
        kubernetes.add_pod_annotation(task, name, value)
    if cluster.image_pull_policy:
        kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.image_pull_secrets))


def build(dag: str, change: Callable[[str, Any], None]) -> Any:  # noqa: ANN401 - kfp is untyped
    """A DAG of this package, `MODULE` or `MODULE.NAME`, with `change` applied to each of its tasks.

    kfp compiles an inner pipeline where it is defined, so the module's code is executed anew.
    """
    from pipelines import steps

    module, _, name = dag.partition(".")
    with warnings.catch_warnings(), steps.configured(change):
        warnings.simplefilter("ignore")  # kfp's own deprecations
        return runpy.run_path(str(Path(__file__).parents[1] / f"{module}.py"))[name or module]


def compile_dag(cluster: Cluster, dag: str = FINE_TUNING) -> Compiled:
    """Compile a DAG of this package for the pods that `cluster` describes."""
    from kfp import compiler

    built = build(dag, lambda step, task: configure(cluster, step, task))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dag.yaml"
        compiler.Compiler().compile(built, str(path))
        text = path.read_text()
    return Compiled(text, hashlib.sha256(text.encode()).hexdigest())
