"""A step that a cluster starts again after an input error ends at once, with the same error.

Kubeflow can be told how often a step is started again, but not after which errors, and a step that ended well in spite
of one would let the run go on. So the work is not done again; the pod's start, and the pauses between, are spent.
"""

import time
from collections.abc import Iterable, Mapping

from components.core.errors import ExpectedError, InputError, UnavailableError

SINCE = "thawline.input_error_at"  # tag of a step's run: seconds since the epoch, of an error that lasts
LASTS_SECONDS = 600.0  # more than the pauses between three attempts; who retries a run later may have mended the data


class RepeatedError(InputError):
    """An earlier attempt of this step met an error in the input, so this one did not look."""


def mark(error: ExpectedError) -> dict[str, str]:
    """Tags of a step's run that stop its next attempts; none for what may be over then."""
    lasts = isinstance(error, InputError) and not isinstance(error, UnavailableError | RepeatedError)
    return {SINCE: str(time.time())} if lasts else {}


def refuse_repeated(step: str, earlier: Iterable[tuple[str, Mapping[str, str]]], error_tag: str) -> None:
    """End a step whose earlier attempt has just met an error that lasts.

    Args:
        step: Its name.
        earlier: Names and tags of this pipeline run's steps that carry the tag `SINCE`.
        error_tag: The tag that holds their error's kind and sentences.

    Raises:
        RepeatedError: With that attempt's sentence.
    """
    for name, tags in earlier:
        passed = time.time() - float(tags[SINCE])
        if name == step and passed < LASTS_SECONDS:
            told = tags.get(error_tag, "").partition(": ")[2]
            mend = f"This attempt did not look again, for that was {passed:.0f} s ago."
            raise RepeatedError(told, f"{mend} Mend it, and start another run, or retry this one in ten minutes.")
