"""The settings of a run: one definition for the command line, the config file, the DAG and the documents."""

import hashlib
import json
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Options that change only how models are compared: with others, evaluation and registration run again.
GATE = frozenset(
    {
        "gate",
        "gate_metric",
        "gate_alpha",
        "gate_horizon",
        "gate_margin",
        "slice_margin",
        "slice_by",
        "max_label_shift",
        "allow_removed_class",
        "max_calibration_error",
        "max_latency_ratio",
        "test_window",
    }
)
# Options that change where and how fast a run computes, never its result: they stay out of the digest.
OPERATIONAL = frozenset(
    {
        "search_workers",
        "processes",
        "activations",
        "cache_budget",
        "max_rejected",
        "promote",
        "force",
        "verify",
        "min_new",
        "max_minutes",  # a run that it cuts is told from others by a tag
        "step_max_minutes",
        "lost_after_hours",
        "machine",
        "price_per_hour",
        "currency",
        "notify",
        "drift_trigger",
        "assignments",  # only of a lineage without any run, whose splits the data's digest holds
    }
)


TASK_NAMES = {  # short ones
    **dict.fromkeys(("image", "images", "picture", "pictures"), "image_classification"),
    **dict.fromkeys(("text", "texts"), "text_classification"),
    **dict.fromkeys(("audio", "sound", "sounds"), "audio_classification"),
    "speech": "speech_recognition",
}


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The sha256 of the canonical JSON of `value`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Hyperparameters(BaseModel):
    """What one trial fixes, for both training steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2
    label_smoothing: float = 0.0
    thaw: int = 2
    thaw_learning_rate: float = 2e-4
    layer_decay: float = 0.7
    thaw_epochs: int = 6


class Settings(BaseModel):
    """Every option of a run. A searched option that is None is left to the search (or to its default)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    SEARCHED: ClassVar[frozenset[str]] = frozenset(Hyperparameters.model_fields)

    task: str = Field(
        "image_classification",
        description="Kind of problem: image, text, audio or speech, or a module of yours. If not given, `run` takes "
        "the one for what the records are.",
    )
    option: dict[str, str] = Field(
        {},
        description="An option of the task's own, as NAME=VALUE; may be given several times. A wrong name lists the "
        "right ones.",
    )
    model: str = Field(
        "thawline",
        pattern=r"^\w[\w.-]{0,99}$",
        description="Name in the model registry; also the lineage of the splits.",
    )
    promote: Literal["auto", "manual"] = Field(
        "auto", description="An accepted version becomes champion at once, or waits for `thawline promote`."
    )

    backbone: str = Field(
        "",
        description="torchvision/NAME, timm/NAME or hf/NAME for pictures, hf/NAME for text and sound, speaker/lstm for "
        "sound; empty: the task's own.",
    )
    weights: str = Field(
        "default",
        description="default, a weight name of the library, FILE.pth, FILE.safetensors, s3://…, "
        "package:efficientnet-lite0, or none. For networks of transformers a folder or s3://…; "
        "package:all-minilm-l6-v2 for text, package:resemblyzer for sound.",
    )
    warm_start: bool = Field(
        default=False, description="Start from the champion's weights; from --weights where there is no champion yet."
    )
    image_size: int = Field(0, ge=0, description="Side of the square input in pixels; 0: what the weights expect.")
    resize: Literal["auto", "crop", "squash", "pad"] = Field(
        "auto",
        description="How a picture becomes square: centre crop, stretch, pad with white, or what the weights expect.",
    )

    head: Literal["linear", "mlp"] = Field("linear", description="New head: Linear, or Linear-ReLU-Dropout-Linear.")
    hidden: int = Field(512, ge=1, description="Width of the mlp head.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Dropout of the head.")
    weight_decay: float | None = Field(None, ge=0, description="Weight decay (not on norms and biases).")
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="Label smoothing of the training loss.")
    class_weights: Literal["none", "balanced"] = Field("none", description="Weight classes by inverse frequency.")

    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="Optimizer of both phases.")
    batch_size: int = Field(32, ge=2, description="Examples per step.")
    head_epochs: int = Field(30, ge=1, description="Most epochs of the head phase.")
    head_learning_rate: float | None = Field(None, gt=0, description="Peak rate of the head phase.")
    thaw: int | None = Field(None, ge=0, description="Stages thawed in the second phase; 0: head only.")
    thaw_epochs: int | None = Field(None, ge=1, description="Most epochs of the thawed phase.")
    thaw_learning_rate: float | None = Field(None, gt=0, description="Peak rate of the head while thawed.")
    layer_decay: float | None = Field(None, gt=0, le=1, description="Factor on the rate per stage below the head.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps that warm up before the cosine.")
    patience: int = Field(8, ge=1, description="Epochs without a better validation loss before stopping.")
    clip_norm: float = Field(1.0, ge=0, description="Largest gradient norm; 0: no clipping.")

    augment: Literal["none", "basic", "randaugment", "trivialaugment"] = Field(
        "none",
        description="Augmentation. Of pictures basic is random crop and flip, the others add to it; texts and sounds "
        "have basic only.",
    )
    views: int = Field(
        0, ge=0, description="Augmented views of each training example that are kept; 0: augmented afresh each epoch."
    )
    mixup: float = Field(
        0.0, ge=0, description="Alpha of mixup; 0: off. Mixes activations at the thaw line where these are kept."
    )
    cutmix: float = Field(0.0, ge=0, description="Alpha of cutmix; 0: off. Mixes pictures, so nothing is kept.")

    trials: int = Field(20, ge=0, description="Trials of the search in total; 0: take the defaults.")
    search_workers: int = Field(
        0, ge=0, description="Processes of the search, on Kubeflow pods; 0: one per GPU or core, there one pod."
    )
    processes: int = Field(
        1, ge=0, description="Processes that divide each batch of the two training steps; 0: one per GPU."
    )
    activations: Literal["auto", "keep", "recompute"] = Field(
        "auto", description="Keep what lies below the thaw line, compute it again each epoch, or what is cheaper."
    )
    activation_precision: Literal["float32", "float16"] = Field(
        "float32", description="Precision of kept activations; float16 halves the disk and rounds."
    )
    cache_budget: float = Field(
        50.0, ge=0, description="Gigabytes that kept activations may take; the least recently used go first."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    seed: int = Field(0, ge=0, description="Seed of weights, batches, augmentation and search; never of splits.")
    deterministic: bool = Field(default=False, description="Bit for bit the same on the same machine; slower.")

    split_salt: str = Field("0", min_length=1, description="Salt of the first split of a lineage; kept from then on.")
    assignments: str = Field(
        "", description="assignments.parquet to go on from where MLflow has no run of the model; a file or s3://…."
    )
    near_duplicates: int = Field(
        32,
        ge=-1,
        le=128,
        description="Bits of 256 in which near-duplicates differ at most; they keep to one split. -1: look for none.",
    )
    near_duplicates_flipped: bool = Field(default=False, description="Mirrored copies are near-duplicates too.")
    max_rejected: float = Field(0.05, ge=0, le=1, description="Share of bad records above which the run stops.")

    gate: Literal["superiority", "non-inferiority"] = Field(
        "superiority", description="What a challenger has to show against the champion on the same test rows."
    )
    gate_metric: str = Field("", description="Metric that decides; empty: the task's own.")
    gate_alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Probability that an equal or worse model is promoted within the horizon."
    )
    gate_horizon: int = Field(26, ge=1, description="Looks at the test rows that alpha is spread over.")
    gate_margin: float = Field(0.03, gt=0, lt=1, description="Difference within which a model is not inferior.")
    slice_margin: float = Field(0.05, ge=0, lt=1, description="Most that any slice may fall by.")
    slice_by: str = Field("", description="Metadata columns whose values are slices too, with commas between.")
    max_label_shift: float = Field(
        0.5, ge=0, description="Relative change of a class's share of the labels that holds a model back; 0: none does."
    )
    allow_removed_class: bool = Field(default=False, description="Promote a model that no longer knows a class.")
    max_calibration_error: float = Field(0.0, ge=0, le=1, description="Highest calibration error; 0: no limit.")
    max_latency_ratio: float = Field(0.0, ge=0, description="Longest time for a row, in the champion's; 0: no limit.")
    test_window: int = Field(
        4, ge=1, description="Datasets back to which test rows count as recent, in the figures beside the old ones."
    )
    min_new: int = Field(
        0,
        ge=0,
        description="Examples that must be new, gone or changed since the last training to train again.",
    )
    drift_trigger: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of new examples told from the champion's data that trains in spite of --min-new; 0: off.",
    )
    force: bool = Field(default=False, description="Train although nothing has changed.")
    verify: bool = Field(default=False, description="Read all data to find changes, whatever sizes and times say.")
    max_minutes: float = Field(
        0.0,
        ge=0,
        description="Minutes from the run's start after which training stops with the best so far; 0: no limit.",
    )
    step_max_minutes: float = Field(0.0, ge=0, description="Minutes after which each training step stops; 0: no limit.")
    lost_after_hours: float = Field(
        24.0,
        ge=0.5,
        description="Hours without a sign of life after which a run counts as lost, and the model's next one starts; "
        "on Kubeflow its API is asked first.",
    )
    machine: str = Field("", max_length=100, description="Type of the machine, for the line that says what a run cost.")
    price_per_hour: float = Field(0.0, ge=0, description="What an hour of the machine costs; 0: not known.")
    currency: str = Field("", max_length=10, description="Of that price.")
    notify: Literal["always", "changes", "failures"] = Field(
        "changes",
        description="Where THAWLINE_WEBHOOK_URL is set: tell of every run, of all but skipped ones, or of failed ones.",
    )

    @field_validator("task")
    @classmethod
    def _by_short_name(cls, value: str) -> str:
        """The module that a short name stands for."""
        plain = value.strip().lower().replace("-", "_")
        return value if "." in value else TASK_NAMES.get(plain, plain)

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
            raise ValueError("--views keeps augmented views, so it needs --augment")
        if self.views and self.cutmix:
            raise ValueError("--cutmix mixes pictures afresh in each epoch: leave out --views, or use --mixup")
        if self.activations == "keep" and (self.cutmix or (self.augment != "none" and not self.views)):
            raise ValueError("--activations keep can't keep what differs in each epoch: give --views, without --cutmix")
        return self

    def to_json(self) -> str:
        """All settings as canonical JSON: how they travel through the DAG."""
        return canonical_json(self.model_dump())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        return cls.model_validate_json(text)

    def digest(self) -> str:
        """Identifies the settings that can change a result; `OPERATIONAL` ones are left out."""
        return digest(self.model_dump(exclude=set(OPERATIONAL)))

    def training(self) -> dict[str, Any]:
        """The settings that can change the trained model, by name."""
        return self.model_dump(exclude={*OPERATIONAL, *GATE})

    def gate_rules(self) -> dict[str, Any]:
        """The settings that can change only how a model is judged and registered, by name."""
        return self.model_dump(include=set(GATE))

    def gate_digest(self) -> str:
        """Identifies how a model is judged and registered."""
        return digest(self.gate_rules())

    def fixed(self) -> dict[str, float]:
        """The searched options that the user gave, by name."""
        return {name: getattr(self, name) for name in sorted(self.SEARCHED) if getattr(self, name) is not None}

    def defaults(self) -> Hyperparameters:
        """Hyperparameters without a search: what is given, else the defaults."""
        return Hyperparameters.model_validate(self.fixed())
