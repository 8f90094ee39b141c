"""The one length of all sounds of a dataset, since kept activations need one shape."""

import math
from typing import Any

import numpy as np

from components.core.data.examples import Examples
from components.core.errors import InputError
from components.core.inference import sounds
from components.core.networks.sounds import Encoder

WHOLE = 0.95  # share of the training sounds that the chosen length holds
DEFAULT = 10  # seconds
STEP = 0.5  # seconds; a longer sound next week seldom makes another length


def measure_seconds(
    encoder: Encoder, given: float, longest: float, examples: Examples, whole: float = WHOLE
) -> tuple[dict[str, str], str]:
    """The option `seconds` as the data decide it, and a sentence on what it cuts.

    Args:
        encoder: Whose own length is taken where it has one.
        given: Seconds that the user asks for; 0: none.
        longest: Seconds that are chosen at most.
        examples: The prepared data, with the fact `milliseconds`.
        whole: Share of the training sounds that the chosen length holds.
    """
    rows = examples.rows("train")
    lengths = np.array(examples.column("milliseconds", rows)) / 1000
    wanted = math.ceil(np.quantile(lengths, whole, method="higher") / STEP) * STEP
    native = encoder.native / encoder.front["sample_rate"]
    seconds = given or native or min(wanted, longest)
    preprocessing_for(encoder, seconds)  # a length that can't be is found here
    how = (
        "as asked" if given else "as the network was trained" if native else f"chosen from {len(rows)} training sounds"
    )
    cut, lost = (lengths > seconds).mean(), np.maximum(lengths - seconds, 0).sum() / lengths.sum()
    share = f"{cut:.1%} of them are longer; {lost:.1%} of the total audio is cut off"
    note = f"sounds are cut at {seconds:g} s, {how}: {share}"
    return {"seconds": repr(seconds)}, note


def preprocessing_for(encoder: Encoder, seconds: float) -> dict[str, Any]:
    """Return the parameters that encode a sound at this length; 0: the encoder's own length, or ten seconds.

    Raises:
        InputError: The encoder can't take that length.
    """
    rate, native = encoder.front["sample_rate"], encoder.native
    if 0 < seconds < sounds.LEAST_SECONDS:
        raise InputError(f"--option seconds={seconds:g} is less than {sounds.LEAST_SECONDS:g} s.", "Give more.")
    samples = round(seconds * rate) or native or DEFAULT * rate
    if native and (samples > native or (encoder.fixed and samples != native)):
        only = "only" if encoder.fixed else "at most"
        raise InputError(
            f"--option seconds={seconds:g} does not fit: the encoder takes sounds of {only} {native / rate:g} s.",
            "Leave it out." if encoder.fixed else "Give less, or leave it out.",
        )
    return {**encoder.front, "samples": samples}
