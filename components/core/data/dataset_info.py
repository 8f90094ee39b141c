"""The facts of a prepared dataset, `dataset.json`; written last, so a folder that has it is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from components.core.digests import canonical_json
from components.core.storage.home_folder import write_text
from components.core.tracking import tag_names

FILE = "dataset.json"


class DatasetInfo(BaseModel):
    """The facts of a dataset; one that an earlier version wrote may lack those that have a default."""

    model_config = ConfigDict(frozen=True)

    classes: list[str]  # what the network learns to answer, in the order of its outputs
    digest: str  # of ids, labels and splits
    weights_digest: str = ""  # of the weights that training starts from
    counts: Mapping[str, Mapping[str, int]] = {}  # split -> class -> examples
    examples: int = 0
    data_digest: str = ""  # of the source, with what can't be used
    salt: str = ""  # of the lineage
    number: int = 0  # of the lineage's datasets before this one
    lineage: str = ""  # its name, the model's
    source: str = ""
    duplicates: int = 0
    near_duplicates: int = 0
    chained: int = 0  # near-duplicates of near-duplicates, whose chain was divided
    rejected: Mapping[str, int] = {}  # kind of reason -> records
    set_aside: int = 0  # examples that belong to those of two splits
    label_changes: int = 0  # test rows whose label the source changed, and nobody accepted
    changes: Mapping[str, int] = {}  # since the lineage's last dataset: new, gone, relabelled
    options: Mapping[str, str] = {}  # of the task, that the data decided
    note: str = ""  # what the task says about these

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The facts of the dataset in a folder."""
        return cls.model_validate_json((folder / FILE).read_text())

    def tags(self) -> dict[str, str]:
        """Return the tags by which a run on this dataset is found."""
        return {tag_names.DATASET_DIGEST: self.digest, tag_names.WEIGHTS_DIGEST: self.weights_digest}

    def sizes(self) -> dict[str, float]:
        """Return what two datasets are compared by: examples, rejected records, and changes since the last one."""
        return {"examples": self.examples, "rejected": sum(self.rejected.values()), **self.changes}

    def fitted(self) -> int:
        """Rows that training fits, judges or stops by: those of training and validation."""
        return sum(sum(self.counts.get(split, {}).values()) for split in ("train", "validation"))

    def write(self, folder: Path) -> None:
        """Write `dataset.json` into a folder, whole or not at all."""
        write_text(folder / FILE, canonical_json(self.model_dump()))
