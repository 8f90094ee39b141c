"""Features below the head."""

import torch

from components.core.evaluation.features import flattened


def test_maps_and_sequences_are_averaged() -> None:
    """Of several tensors at the line, each gives a mean over its places, side by side."""
    maps = {"deep": torch.arange(16.0).reshape(2, 2, 2, 2), "said": torch.ones(2, 5, 3), "flat": torch.zeros(2, 4)}

    class Kept:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, rows: slice) -> dict[str, torch.Tensor]:
            return {name: tensor[rows] for name, tensor in maps.items()}

    found = flattened(Kept())
    assert found.shape == (2, 2 + 3 + 4)
    assert found[:, :2].tolist() == [[1.5, 5.5], [9.5, 13.5]]
