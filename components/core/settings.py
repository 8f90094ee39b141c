"""The settings of a run: one definition for the command line, the config file, the DAG and the documents."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.core.digests import canonical_json, digest

Panel = Literal[
    "Problem and model",
    "Network",
    "Training",
    "Augmentation",
    "Search and machine",
    "Data",
    "Gate",
    "When nothing changed",
    "Deadline, cost, notification",
]


SHORT_TASK_NAMES = {
    **dict.fromkeys(("image", "images", "picture", "pictures"), "image_classification"),
    **dict.fromkeys(("text", "texts"), "text_classification"),
    **dict.fromkeys(("audio", "sound", "sounds"), "audio_classification"),
    "speech": "speech_recognition",
    "detection": "object_detection",
}


@dataclass(frozen=True, slots=True)
class Option:
    """Marks a field of the settings: where `--help` shows it, and what another value changes."""

    panel: Panel
    _: KW_ONLY
    affects: Literal[
        "model",  # what is trained: the model is trained again
        "gate",  # how models are compared: evaluation and registration run again
        "operation",  # when, where and how fast a run computes, never its result: it stays out of the digest
    ]


class Hyperparameters(BaseModel):
    """Hyperparameters of one trial, for both training steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2
    label_smoothing: float = 0.0
    thaw: int = 2
    thaw_learning_rate: float = 3e-4
    layer_decay: float = 0.7
    thaw_epochs: int = 8


class Settings(BaseModel):
    """Every option of a run. A searched option that is None is left to the search (or to its default)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    SEARCHED: ClassVar[frozenset[str]] = frozenset(Hyperparameters.model_fields)
    # the rate of a head that is trained in epochs, and what keeps it from overfitting
    OF_EPOCHS: ClassVar[frozenset[str]] = frozenset({"head_learning_rate", "dropout", "label_smoothing"})

    task: Annotated[str, Option("Problem and model", affects="model")] = Field(
        "image_classification",
        description="Kind of problem: image, detection, text, audio, speech or recommendation, or your own module. "
        "If not given, `run` detects pictures, boxes, texts and sounds from the records.",
    )
    option: Annotated[dict[str, str], Option("Problem and model", affects="model")] = Field(
        {},
        description="Task option, as NAME=VALUE; repeatable. A wrong name lists the available ones.",
    )
    model: Annotated[str, Option("Problem and model", affects="model")] = Field(
        "thawline",
        pattern=r"^\w[\w.-]{0,99}$",
        description="Name in the model registry; the splits belong to it too.",
    )
    promote: Annotated[Literal["auto", "manual"], Option("Problem and model", affects="operation")] = Field(
        "auto", description="Make an accepted version champion at once, or let it wait for `thawline promote`."
    )

    backbone: Annotated[str, Option("Network", affects="model")] = Field(
        "",
        description="torchvision/NAME, timm/NAME or hf/NAME for pictures, hf/NAME for text and sound, speaker/lstm "
        "for sound; empty: the task's default.",
    )
    weights: Annotated[str, Option("Network", affects="model")] = Field(
        "default",
        description="default, a weight name from the library, FILE.pth, FILE.safetensors, s3://…, "
        "package:efficientnet-lite0, or none. For transformers networks a folder or s3://…; "
        "package:all-minilm-l6-v2 for text, package:resemblyzer for sound.",
    )
    warm_start: Annotated[bool, Option("Network", affects="model")] = Field(
        default=False, description="Start from the champion's weights; without a champion, from --weights."
    )
    image_size: Annotated[int, Option("Network", affects="model")] = Field(
        0, ge=0, description="Side of the square input in pixels; 0: what the weights expect."
    )
    resize: Annotated[Literal["auto", "weights", "crop", "squash", "pad"], Option("Network", affects="model")] = Field(
        "auto",
        description="How a picture becomes square: stretch, pad with white, center crop, or what the weights expect; "
        "auto: what the weights expect if that keeps all of the picture, else stretch.",
    )

    head: Annotated[Literal["linear", "mlp"], Option("Network", affects="model")] = Field(
        "linear", description="New head: Linear, or Linear-ReLU-Dropout-Linear."
    )
    hidden: Annotated[int, Option("Network", affects="model")] = Field(512, ge=1, description="Width of the mlp head.")
    dropout: Annotated[float | None, Option("Network", affects="model")] = Field(
        None, ge=0, lt=1, description="Dropout of the head."
    )
    weight_decay: Annotated[float | None, Option("Network", affects="model")] = Field(
        None, ge=0, description="Weight decay (not on norms and biases)."
    )
    label_smoothing: Annotated[float | None, Option("Network", affects="model")] = Field(
        None, ge=0, lt=1, description="Label smoothing of the training loss."
    )
    class_weights: Annotated[Literal["none", "balanced"], Option("Network", affects="model")] = Field(
        "none", description="Weight classes by inverse frequency."
    )

    head_solver: Annotated[Literal["auto", "lbfgs", "sgd"], Option("Training", affects="model")] = Field(
        "auto",
        description="How the head is trained. lbfgs solves for the optimum of a linear head; sgd trains in epochs, by "
        "--optimizer; auto solves where there is an optimum.",
    )
    optimizer: Annotated[Literal["adamw", "adam", "sgd"], Option("Training", affects="model")] = Field(
        "adamw", description="Optimizer of both phases."
    )
    batch_size: Annotated[int, Option("Training", affects="model")] = Field(32, ge=2, description="Examples per step.")
    head_epochs: Annotated[int, Option("Training", affects="model")] = Field(
        30, ge=1, description="Maximum epochs of the head phase."
    )
    head_learning_rate: Annotated[float | None, Option("Training", affects="model")] = Field(
        None, gt=0, description="Peak learning rate of the head phase."
    )
    thaw: Annotated[int | None, Option("Training", affects="model")] = Field(
        None, ge=0, description="Stages thawed in the second phase; 0: head only."
    )
    thaw_epochs: Annotated[int | None, Option("Training", affects="model")] = Field(
        None, ge=1, description="Maximum epochs of the thawed phase."
    )
    thaw_learning_rate: Annotated[float | None, Option("Training", affects="model")] = Field(
        None, gt=0, description="Peak learning rate of the head in the thawed phase."
    )
    layer_decay: Annotated[float | None, Option("Training", affects="model")] = Field(
        None, gt=0, le=1, description="Factor on the learning rate for each stage below the head."
    )
    warmup: Annotated[float, Option("Training", affects="model")] = Field(
        0.1, ge=0, lt=1, description="Share of the steps for warmup, before the cosine decay."
    )
    patience: Annotated[int, Option("Training", affects="model")] = Field(
        8, ge=1, description="Epochs without a lower validation loss before stopping."
    )
    clip_norm: Annotated[float, Option("Training", affects="model")] = Field(
        1.0, ge=0, description="Maximum gradient norm; 0: no clipping."
    )

    augment: Annotated[
        Literal["none", "basic", "randaugment", "trivialaugment"], Option("Augmentation", affects="model")
    ] = Field(
        "none",
        description="Augmentation. For pictures, basic is random crop and flip, and the others add to it; texts and "
        "sounds have only basic.",
    )
    views: Annotated[int, Option("Augmentation", affects="model")] = Field(
        0, ge=0, description="Augmented views to cache of each training example; 0: augment afresh in each epoch."
    )
    mixup: Annotated[float, Option("Augmentation", affects="model")] = Field(
        0.0, ge=0, description="Alpha of mixup; 0: off. Mixes activations at the thaw line if they are cached."
    )
    cutmix: Annotated[float, Option("Augmentation", affects="model")] = Field(
        0.0, ge=0, description="Alpha of cutmix; 0: off. Mixes pictures, so nothing is cached."
    )

    trials: Annotated[int, Option("Search and machine", affects="model")] = Field(
        20, ge=0, description="Trials of the search in total; 0: use the defaults."
    )
    search_workers: Annotated[int, Option("Search and machine", affects="operation")] = Field(
        0,
        ge=0,
        description="Processes of the search (on Kubeflow: pods); 0: one per GPU or core (on Kubeflow: one pod).",
    )
    processes: Annotated[int, Option("Search and machine", affects="operation")] = Field(
        1, ge=0, description="Processes that divide each batch of the two training steps; 0: one per GPU."
    )
    activations: Annotated[Literal["auto", "keep", "recompute"], Option("Search and machine", affects="operation")] = (
        Field(
            "auto",
            description="Cache activations below the thaw line, recompute them in each epoch, or do what is faster.",
        )
    )
    activation_precision: Annotated[Literal["float32", "float16"], Option("Search and machine", affects="model")] = (
        Field("float32", description="Precision of cached activations; float16 halves the disk space and rounds.")
    )
    cache_budget: Annotated[float, Option("Search and machine", affects="operation")] = Field(
        50.0, ge=0, description="Gigabytes for cached activations; the least recently used are removed first."
    )
    device: Annotated[str, Option("Search and machine", affects="model")] = Field(
        "auto", description="auto, cpu, cuda or cuda:N."
    )
    seed: Annotated[int, Option("Search and machine", affects="model")] = Field(
        0, ge=0, description="Seed of weights, batches, augmentation and search; never of splits."
    )
    deterministic: Annotated[bool, Option("Search and machine", affects="model")] = Field(
        default=False, description="Make results identical bit for bit on the same machine; slower."
    )

    split_salt: Annotated[str, Option("Data", affects="model")] = Field(
        "0", min_length=1, description="Salt of the hash that splits the first data of a model; kept from then on."
    )
    # only of a lineage without any run, whose splits the data's digest holds
    assignments: Annotated[str, Option("Data", affects="operation")] = Field(
        "", description="assignments.parquet to continue from if MLflow has no run of the model; a file or s3://…."
    )
    near_duplicates: Annotated[int, Option("Data", affects="model")] = Field(
        32,
        ge=-1,
        le=128,
        description="Maximum differing bits, of 256, between near-duplicates, which stay in one split. -1: off.",
    )
    near_duplicates_flipped: Annotated[bool, Option("Data", affects="model")] = Field(
        default=False, description="Count mirrored copies as near-duplicates too."
    )
    max_rejected: Annotated[float, Option("Data", affects="operation")] = Field(
        0.05, ge=0, le=1, description="Maximum share of rejected records; above it the run stops."
    )

    gate: Annotated[Literal["superiority", "non-inferiority"], Option("Gate", affects="gate")] = Field(
        "superiority", description="Requirement for a challenger against the champion on the same test rows."
    )
    gate_metric: Annotated[str, Option("Gate", affects="gate")] = Field(
        "", description="Metric that decides; empty: the task's default."
    )
    gate_alpha: Annotated[float, Option("Gate", affects="gate")] = Field(
        0.05, gt=0, lt=0.5, description="Probability that an equal or worse model is promoted within the horizon."
    )
    gate_horizon: Annotated[int, Option("Gate", affects="gate")] = Field(
        26, ge=1, description="Looks (comparisons on the test rows) that share --gate-alpha."
    )
    gate_margin: Annotated[float, Option("Gate", affects="gate")] = Field(
        0.03, gt=0, lt=1, description="Margin of non-inferiority."
    )
    slice_margin: Annotated[float, Option("Gate", affects="gate")] = Field(
        0.05, ge=0, lt=1, description="Maximum drop of any slice."
    )
    slice_by: Annotated[str, Option("Gate", affects="gate")] = Field(
        "", description="Metadata columns whose values are also slices, separated by commas."
    )
    max_label_shift: Annotated[float, Option("Gate", affects="gate")] = Field(
        0.5, ge=0, description="Relative change of a class's share of the labels that blocks a promotion; 0: no limit."
    )
    allow_removed_class: Annotated[bool, Option("Gate", affects="gate")] = Field(
        default=False, description="Allow promoting a model that no longer knows a class."
    )
    max_calibration_error: Annotated[float, Option("Gate", affects="gate")] = Field(
        0.0, ge=0, le=1, description="Maximum calibration error; 0: no limit."
    )
    max_latency_ratio: Annotated[float, Option("Gate", affects="gate")] = Field(
        0.0, ge=0, description="Maximum time per row, as a multiple of the champion's; 0: no limit."
    )
    test_window: Annotated[int, Option("Gate", affects="gate")] = Field(
        4, ge=1, description="Number of latest datasets whose test rows count as recent in the report."
    )
    min_new: Annotated[int, Option("When nothing changed", affects="operation")] = Field(
        0,
        ge=0,
        description="Minimum number of examples that are new, gone or changed since the last training.",
    )
    drift_trigger: Annotated[float, Option("When nothing changed", affects="operation")] = Field(
        0.0,
        ge=0,
        lt=1,
        description="Train despite --min-new if more than this share of the new examples differs from the champion's "
        "data; 0: off.",
    )
    force: Annotated[bool, Option("When nothing changed", affects="operation")] = Field(
        default=False, description="Train even if nothing has changed."
    )
    verify: Annotated[bool, Option("When nothing changed", affects="operation")] = Field(
        default=False, description="Read all data to find changes, regardless of sizes and times."
    )
    # a run that it cuts is told from others by a tag
    max_minutes: Annotated[float, Option("Deadline, cost, notification", affects="operation")] = Field(
        0.0,
        ge=0,
        description="Minutes from the run's start after which training stops with the best model so far; 0: no limit.",
    )
    step_max_minutes: Annotated[float, Option("Deadline, cost, notification", affects="operation")] = Field(
        0.0, ge=0, description="Minutes after which each training step stops; 0: no limit."
    )
    lost_after_hours: Annotated[float, Option("Deadline, cost, notification", affects="operation")] = Field(
        24.0,
        ge=0.5,
        description="Hours without a sign of life after which a run counts as lost and the model's next run may "
        "start; on Kubeflow, its API is asked first.",
    )
    machine: Annotated[str, Option("Deadline, cost, notification", affects="operation")] = Field(
        "", max_length=100, description="Type of the machine, for the cost of the run."
    )
    price_per_hour: Annotated[float, Option("Deadline, cost, notification", affects="operation")] = Field(
        0.0, ge=0, description="Price of an hour on the machine; 0: unknown."
    )
    currency: Annotated[str, Option("Deadline, cost, notification", affects="operation")] = Field(
        "", max_length=10, description="Currency of the price."
    )
    notify: Annotated[
        Literal["always", "changes", "failures"], Option("Deadline, cost, notification", affects="operation")
    ] = Field(
        "changes",
        description="If THAWLINE_WEBHOOK_URL is set: report every run, all but skipped runs, or failed runs only.",
    )

    @field_validator("task")
    @classmethod
    def _by_short_name(cls, value: str) -> str:
        """The module that a short name stands for."""
        plain = value.strip().lower().replace("-", "_")
        return value if "." in value else SHORT_TASK_NAMES.get(plain, plain)

    @field_validator("option", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:  # noqa: ANN401 - as pydantic passes it
        """NAME=VALUE texts of the command line, or a mapping of a config file, as texts by name."""
        if isinstance(value, list | tuple):
            pairs = [str(text).partition("=") for text in value]
            if any(not (name and equals) for name, equals, _ in pairs):
                raise ValueError("write NAME=VALUE")
            value = {name: text for name, _, text in pairs}
        if isinstance(value, dict):
            return {str(name).strip().replace("-", "_"): str(text).strip() for name, text in value.items()}
        return value

    @model_validator(mode="after")
    def _kept_batches_stay_the_same(self) -> Self:
        if self.views and self.augment == "none":
            raise ValueError("--views caches augmented views, so it needs --augment")
        if self.views and self.cutmix:
            raise ValueError("--cutmix mixes pictures afresh in each epoch: leave out --views, or use --mixup")
        if self.head_solver == "lbfgs" and not self.may_solve_head():
            raise ValueError("--head-solver lbfgs needs --head linear, and examples that stay the same in each epoch")
        if self.activations == "keep" and (self.cutmix or (self.augment != "none" and not self.views)):
            raise ValueError("--activations keep can't cache what differs in each epoch: use --views, without --cutmix")
        return self

    def to_json(self) -> str:
        """All settings as canonical JSON: how they travel through the DAG."""
        return canonical_json(self.model_dump())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        return cls.model_validate_json(text)

    def digest(self) -> str:
        """Return a digest of the settings that can change a result, without `OPERATIONAL` ones."""
        return digest(self.model_dump(exclude=set(OPERATIONAL)))

    def training(self) -> dict[str, Any]:
        """The settings that can change the trained model, by name."""
        return self.model_dump(exclude={*OPERATIONAL, *GATE})

    def gate_rules(self) -> dict[str, Any]:
        """The settings that can change only how a model is judged and registered, by name."""
        return self.model_dump(include=set(GATE))

    def gate_digest(self) -> str:
        """Return a digest of the settings for judging and registration."""
        return digest(self.gate_rules())

    def fixed(self) -> dict[str, float]:
        """The searched options that the user gave, by name."""
        return {name: getattr(self, name) for name in sorted(self.SEARCHED) if getattr(self, name) is not None}

    def searched(self, *, solved: bool) -> frozenset[str]:
        """The options that the search decides; with a solved head fewer matter."""
        return self.SEARCHED - self.fixed().keys() - (self.OF_EPOCHS if solved else frozenset())

    def trains_afresh(self) -> bool:
        """Return whether training examples differ in each epoch, so that a head has no optimum to solve for."""
        return bool(self.mixup or self.cutmix) or (self.augment != "none" and not self.views)

    def may_solve_head(self) -> bool:
        """Return whether these settings let a head be solved for; the task's loss has to be convex too."""
        return self.head_solver != "sgd" and self.head == "linear" and not self.trains_afresh()

    def defaults(self, recommended: Mapping[str, Any] | None = None) -> Hyperparameters:
        """Hyperparameters without a search: what is given, else the defaults.

        Args:
            recommended: What the task has instead of the defaults. It holds as a whole, or not at all: a rate that
                suits one depth may not suit another, so none of it may be given.
        """
        fixed, recommended = self.fixed(), recommended or {}
        return Hyperparameters.model_validate(fixed if recommended.keys() & fixed.keys() else {**recommended, **fixed})


def marks(model: type[BaseModel]) -> dict[str, Option]:
    """The mark of each field, in their order.

    Raises:
        TypeError: A field has none, so nobody decided what it affects.
    """
    found = {}
    for name, field in model.model_fields.items():
        mark = next((one for one in field.metadata if isinstance(one, Option)), None)
        if mark is None:
            raise TypeError(f"The setting {name!r} needs an Option: its panel, and what it affects.")
        found[name] = mark
    return found


OPTIONS = marks(Settings)
GATE = frozenset(name for name, mark in OPTIONS.items() if mark.affects == "gate")
OPERATIONAL = frozenset(name for name, mark in OPTIONS.items() if mark.affects == "operation")
