"""Check pictures, and find near-duplicates among them, for every task that takes pictures."""

from collections.abc import Mapping, Sequence

from components.core.errors import RejectedRecord
from components.core.inference import images
from components.core.modalities import near_duplicate_images
from components.core.settings import Settings


def check(content: bytes) -> Mapping[str, int | str]:
    """Return width and height in pixels and the fingerprint of a picture.

    Raises:
        RejectedRecord: It can't be decoded; the message is the reason.
    """
    try:
        with images.decoded(content) as picture:
            width, height = picture.info[images.FULL_SIZE]
            print_ = near_duplicate_images.fingerprint(picture)
    except ValueError as error:
        raise RejectedRecord(str(error)) from error
    return {"width": width, "height": height, "fingerprint": print_}


def near_duplicates(fingerprints: Sequence[str], new: Sequence[bool], settings: Settings) -> list[tuple[int, int]]:
    """Pictures that were rescaled, compressed again, slightly cropped or, if the settings say so, mirrored."""
    bits, flipped = settings.near_duplicates, settings.near_duplicates_flipped
    return near_duplicate_images.pairs(fingerprints, new, bits, flipped=flipped)
