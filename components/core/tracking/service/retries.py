"""Attempts of a step: it waits for a server that does not answer, and repeats no work that can't end better.

Kubeflow's own manifests start a step again whose pod was lost, and none that ended with an error. So what may pass, a
silent S3 server, hub, database or MLflow server, is tried again inside the step, for the minutes that
`THAWLINE_RETRY_MINUTES` allows.

A cluster may be set to start failed steps again all the same. Then an attempt after an input error that lasts ends at
once, with the same error: only the pod's start, and the pauses between, are spent.
"""

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

from components.core import run_folder
from components.core.errors import ExpectedError, InputError, NoAnswerError, UnavailableError
from components.core.storage import outages
from components.core.tracking import tag_names

P = ParamSpec("P")
R = TypeVar("R")
MINUTES = "THAWLINE_RETRY_MINUTES"  # that a step waits for servers in all; not set: it does not
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds; doubled from attempt to attempt
LASTS_SECONDS = 600.0  # more than the pauses between three attempts; who retries a run later may have mended the data


def patient(step: Callable[P, R]) -> Callable[P, R]:
    """Let a step, the function of its module, wait for a server that does not answer, and do it again then.

    It has a parameter `run_key`.
    """

    @functools.wraps(step)
    def waiting(*inputs: P.args, **named: P.kwargs) -> R:
        end, pause = time.monotonic() + _seconds(), FIRST_PAUSE
        name = step.__module__.rpartition(".")[2]
        key = str(inspect.signature(step).bind(*inputs, **named).arguments["run_key"])
        while True:
            try:
                with outages.waited_out(functools.partial(say, name, key)):
                    return step(*inputs, **named)
            except NoAnswerError as error:
                left = end - time.monotonic()
                if left <= 0:
                    raise
                pause = min(pause, left)
                say(name, key, f"{error.sentence} Trying again in {pause:.0f} s, for {left:.0f} s at most.")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    return waiting


def _seconds() -> float:
    """Return how long a step waits for servers.

    Raises:
        InputError: `THAWLINE_RETRY_MINUTES` is no number.
    """
    text = os.environ.get(MINUTES) or "0"
    try:
        return 60 * max(0.0, float(text))
    except ValueError:
        raise InputError(f"{MINUTES} can't be {text!r}.", "Use a number of minutes.") from None


def say(step: str, run_key: str, text: str) -> None:
    """Tell the terminal, and the pod's log: MLflow may be what is silent."""
    run_folder.emit(run_key, step, "note", text=text)
    sys.stderr.write(f"{step}: {text}\n")


class RepeatedError(InputError):
    """An earlier attempt of this step met an error in the input, so this one did not look."""


def mark(error: ExpectedError) -> dict[str, str]:
    """Tags of a step's run that stop its next attempts; none for what may be over then."""
    lasts = isinstance(error, InputError) and not isinstance(error, UnavailableError | RepeatedError)
    return {tag_names.INPUT_ERROR_AT: str(time.time())} if lasts else {}


def refuse_repeated(step: str, earlier: Iterable[tuple[str, Mapping[str, str]]], error_tag: str) -> None:
    """End a step whose earlier attempt has just met an error that lasts.

    Args:
        step: Its name.
        earlier: Names and tags of this pipeline run's steps that carry the tag `INPUT_ERROR_AT`.
        error_tag: The tag that holds their error's kind and sentences.

    Raises:
        RepeatedError: With that attempt's sentence.
    """
    for name, tags in earlier:
        passed = time.time() - float(tags[tag_names.INPUT_ERROR_AT])
        if name == step and passed < LASTS_SECONDS:
            told = tags.get(error_tag, "").partition(": ")[2]
            hint = f"This attempt did not check again, because that was only {passed:.0f} s ago."
            raise RepeatedError(told, f"{hint} Fix it, and start another run, or retry this one in ten minutes.")
