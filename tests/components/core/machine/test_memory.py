"""A lack of memory."""

from collections.abc import Callable

import pytest
import torch

from components.core.errors import StepError
from components.core.machine import memory


@pytest.mark.parametrize("take", [bytearray, torch.empty])
def test_a_lack_of_memory_is_one_sentence(take: Callable[[int], object]) -> None:
    """What Python and PyTorch raise at more memory than any machine has names the step, and what to do."""
    sentence = r"^The step fine_tune ran out of memory\. Use a smaller --batch-size"
    with pytest.raises(StepError, match=sentence), memory.explained("fine_tune"):
        take(1 << 55)


def test_other_errors_stay_as_they_are() -> None:
    """A fault of the code is none of the machine."""
    with pytest.raises(RuntimeError, match="shapes"), memory.explained("fine_tune"):
        raise RuntimeError("shapes don't fit")
