"""Code shared by sound tasks: the check of a record, and the options of length and augmentation."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from components.core.errors import RejectedRecord
from components.core.inference import sounds
from components.core.settings import Settings


class SoundOptions(BaseModel):
    """`--option NAME=VALUE` of a task whose records are sounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(0.0, ge=0, le=600, description="Length of every sound; 0: chosen from the data.")
    noise: float = Field(
        10.0, ge=0, le=40, description="Lowest signal-to-noise ratio of --augment, in dB; 0: no noise."
    )
    time_mask: float = Field(0.1, ge=0, lt=1, description="Largest share of the length that a mask of --augment hides.")
    band_mask: float = Field(
        0.2, ge=0, lt=1, description="Largest share of the mel bands that a mask of --augment hides."
    )


def check(content: bytes) -> Mapping[str, int | str]:
    """Length, sample rate and channels of a sound.

    Raises:
        RejectedRecord: It can't be used; the reason.
    """
    try:
        return sounds.facts(content)
    except ValueError as error:
        raise RejectedRecord(str(error)) from error


def near_duplicates(fingerprints: Sequence[str], new: Sequence[bool], settings: Settings) -> list[tuple[int, int]]:
    """None are sought: sounds have no fingerprint. Name what belongs together by `group`."""
    del fingerprints, new, settings
    return []
