"""A request for rows at the thaw line: which rows, how they are encoded, and what may be cached."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from components.core.networks.network import Network, Pytree


@dataclass(frozen=True)
class CachePolicy:
    """The user's choices about activations."""

    mode: str  # auto, keep, recompute, or stored: what is kept already, and nothing more
    precision: str  # float32 or float16
    budget: float  # bytes that the store may take


@dataclass(frozen=True)
class RowRequest:
    """Activations of examples, or of views of them, at thaw lines of a network."""

    network: Network  # on its device; put into evaluation mode
    lines: Mapping[int, float]  # thaw lines, and how often every example will be asked for there
    keys: Sequence[bytes]  # of the rows, see `row_key`
    encode: Callable[[Sequence[int]], Pytree]  # the network's input for these positions in `keys`
    policy: CachePolicy


def row_key(example: str, view: str = "", encoding: str = "") -> bytes:
    """The 32 bytes that stand for an example, or for one augmented view of it, within a space.

    Args:
        example: Its content's id.
        view: Which augmented view of it; empty: the example itself.
        encoding: What else the network's input depends on beside the preprocessing, see `provenance.encoding_digest`.
    """
    return sha256("\0".join([example, view, *filter(None, [encoding])]).encode()).digest()
