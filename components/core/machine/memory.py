"""Errors that mean that memory is short, as Python, PyTorch, CUDA and the system word them."""

from collections.abc import Iterator
from contextlib import contextmanager

from components.core.errors import StepError

SHORT = ("MemoryError", "can't allocate memory", "Cannot allocate memory", "out of memory")
HINT = "Use a smaller --batch-size, fewer --search-workers or --processes, or a machine with more memory."


def is_short(text: str) -> bool:
    """Return whether the text of an error, with the name of its type, says that memory is short."""
    return any(words in text for words in SHORT)


@contextmanager
def explained(step: str) -> Iterator[None]:
    """Turn a lack of memory into one sentence.

    Raises:
        StepError: The step ran out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's errors are of the second kind
        if not is_short(f"{type(error).__name__}: {error}"):
            raise
        raise StepError(f"The step {step} ran out of memory.", HINT) from error
