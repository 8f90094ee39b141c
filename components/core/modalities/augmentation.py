"""What tasks decide alike about augmentation."""

from components.core.errors import InputError
from components.core.settings import Settings


def augments(settings: Settings) -> bool:
    """Whether records are augmented afresh in each epoch; views are augmented once, and kept."""
    return settings.augment != "none" and not settings.views


def refuse_those_of_pictures(settings: Settings, records: str) -> None:
    """Of what `--augment` and its kin offer, pictures alone take all.

    Raises:
        InputError: Something is asked for that only pictures can take.
    """
    if settings.augment not in ("none", "basic"):
        raise InputError(
            f"--augment {settings.augment} is for pictures.", f"Use --augment basic for {records}, or none."
        )
    if settings.cutmix:
        raise InputError("--cutmix is for pictures.", f"Leave it out for {records}.")
