"""Activations are addressed by what they depend on, computed once, and equal what the network computes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.core.activations import segments, store
from components.core.activations.passes import as_kept, compute_and_store, passes, source
from components.core.activations.requests import CachePolicy, RowRequest, row_key
from components.core.activations.rows import stored
from components.core.activations.spaces import spaces
from components.core.compute import determinism
from components.core.compute.engines import eager
from components.core.errors import StepError
from components.core.networks.network import Network
from tests.support import forks

COUNT = 150
INPUTS = torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0))
KEYS = [row_key(f"example {i}") for i in range(COUNT)]


class Pair(nn.Module):
    """A stage whose output is a tree: what flows between stages need not be one tensor."""

    def forward(self, inputs: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        return {"sum": inputs.sum(1), "parts": (inputs * 2, inputs + 1)}


class Join(nn.Module):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["parts"][0] + inputs["parts"][1] + inputs["sum"][:, None]


def tiny() -> Network:
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)), Pair(), Join()]
    return Network(stages, nn.Linear(3, 2), {})


def compute(network: Network, lines: list[int], keys: list[bytes] = KEYS) -> list[int]:
    """Fill what is missing; return the positions that were encoded."""
    encoded: list[int] = []

    def encode(positions: Sequence[int]) -> Tensor:
        encoded.extend(positions)
        return INPUTS[torch.tensor([KEYS.index(keys[position]) for position in positions])]

    network.eval()
    of_lines = spaces(network, "float32")
    request = RowRequest(network, dict.fromkeys(lines, 1.0), keys, encode, CachePolicy("keep", "float32", 1e9))
    for work in passes(of_lines, lines, keys):
        work, batches_from = source(request, of_lines, work)  # noqa: PLW2901 - where it starts now
        engine = eager(network, work.lines, work.start)
        compute_and_store(request, of_lines, work, work.lines, batches_from, engine)
    return sorted(encoded)


def compute_somewhere(home: str) -> None:
    import os

    os.environ["THAWLINE_HOME"] = home
    compute(tiny(), [1, 3])


@pytest.mark.parametrize("line", [1, 2, 3])
def test_equal_to_the_network(line: int, home: Path) -> None:
    """At every line, in every shape, the store holds what the network gives in eval mode."""
    network = tiny().train()
    compute(network, [line])
    rows = stored(spaces(network, "float32")[line], KEYS)
    assert rows is not None
    with torch.no_grad():
        torch.testing.assert_close(network.above(rows[0:COUNT], line), network(INPUTS), rtol=0, atol=1e-6)


def test_present_examples_are_never_computed_again(home: Path) -> None:
    """New examples are added; those that are there cost nothing, in whatever order they are asked for."""
    assert compute(tiny(), [1], KEYS[:100]) == list(range(100))
    assert compute(tiny(), [1], KEYS[:100][::-1]) == []
    assert compute(tiny(), [1]) == list(range(100, 150))
    assert stored(spaces(tiny(), "float32")[1], KEYS) is not None


def test_one_pass_serves_several_lines(home: Path) -> None:
    """Each example is encoded once for all lines that are asked for."""
    assert compute(tiny(), [1, 2, 3]) == list(range(150))
    assert compute(tiny(), [1, 2, 3]) == []


def test_a_higher_line_is_filled_from_a_lower_one(home: Path) -> None:
    """Moving the line up runs only the stages between: nothing is encoded again."""
    compute(tiny(), [1])
    assert compute(tiny(), [3]) == []
    rows = stored(spaces(tiny(), "float32")[3], KEYS)
    assert rows is not None
    torch.testing.assert_close(rows[0:COUNT], tiny().eval().below(INPUTS, 3), rtol=0, atol=1e-6)


def test_a_lower_line_serves_only_the_examples_it_holds(home: Path) -> None:
    """Only what the lower lines lack is encoded; the rest goes on from the highest line that holds it."""
    compute(tiny(), [1], KEYS[:100])
    compute(tiny(), [2], KEYS[40:80])
    network = tiny().eval()
    starts = [(work.start, len(work.positions)) for work in passes(spaces(network, "float32"), [3], KEYS)]
    assert starts == [(2, 40), (1, 60), (0, 50)]
    assert compute(network, [3]) == list(range(100, 150))
    rows = stored(spaces(network, "float32")[3], KEYS)
    assert rows is not None
    torch.testing.assert_close(rows[0:COUNT], network.below(INPUTS, 3), rtol=0, atol=1e-6)


def test_a_killed_pass_goes_on_where_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was computed before a kill is not computed again."""
    monkeypatch.setattr(determinism, "BATCH", 32)
    appended: list[int] = []
    append = segments.Writer.append

    def dies(self: segments.Writer, keys: Sequence[bytes], rows: Tensor) -> None:
        if len(appended) == 2:
            raise KeyboardInterrupt
        append(self, keys, rows)
        appended.append(len(keys))

    with monkeypatch.context() as patch:
        patch.setattr(segments.Writer, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            compute(tiny(), [1])
    assert compute(tiny(), [1]) == list(range(64, 150))


@pytest.mark.slow  # two processes
def test_processes_share_one_pass(home: Path) -> None:
    """Two processes that want the same rows end with one copy of each."""
    context = forks.context()
    workers = [context.Process(target=compute_somewhere, args=(str(home),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    for line in (1, 3):
        held = segments.segments(spaces(tiny(), "float32")[line])
        assert sorted(key for segment in held for key in segment.keys) == sorted(KEYS)


def test_bits_count_with_deterministic(home: Path) -> None:
    """With deterministic algorithms batches have one size whatever is missing, and only rows computed so are taken."""
    network = tiny().eval()
    space = spaces(network, "float32")[1]
    segments.Writer(space, "onnxruntime").append(KEYS, network.below(INPUTS, 1).detach())
    assert stored(space, KEYS) is not None
    sizes: set[int] = set()

    def run(batch: Tensor) -> list[Tensor]:
        sizes.add(len(batch))
        return [network.below(batch, 1).detach()]

    compute(network, [2], KEYS[:3])  # a batch of three
    torch.use_deterministic_algorithms(mode=True)
    assert stored(space, KEYS) is None
    assert compute(network, [2], KEYS[:5]) == list(range(5))
    assert stored(spaces(network, "float32")[2], KEYS[:5]) is not None
    [rows] = determinism.in_fixed_batches(run, INPUTS)
    assert sizes == {determinism.BATCH}
    torch.testing.assert_close(rows, network.below(INPUTS, 1))


def test_values_that_float16_can_not_hold_are_refused() -> None:
    """A value beyond its range ends the step with the hint, instead of training on infinity."""
    assert as_kept(torch.ones(2, 3), "float16").dtype == torch.float16
    assert as_kept(torch.arange(3), "float16").dtype == torch.int64
    with pytest.raises(StepError, match="activation-precision float32"):
        as_kept(torch.full((2, 3), 1e6), "float16")
    mask = torch.tensor([[0.0, -torch.inf]])
    assert torch.equal(as_kept(mask, "float16").float(), mask)
    assert as_kept(mask.double(), "float16").dtype == torch.float64  # what lies above computes in double precision


def test_the_store_can_lie_elsewhere(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """THAWLINE_ACTIVATIONS names a folder, such as a volume that several machines mount."""
    assert store.store() == home / "activations"
    monkeypatch.setenv("THAWLINE_ACTIVATIONS", str(tmp_path / "volume"))
    compute(tiny(), [2])
    assert list((tmp_path / "volume").glob("*/*/index"))
