"""One step's samples on one rank."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's samples on one rank, on the loader's device."""

    images: Tensor
    """uint8 (N, 3, H, W), channels_last memory."""
    labels: Tensor
    """int64 (N,)."""
    ids: Tensor
    """int64 (N,), global sample ids within the split."""
    copies: Tensor | None = None
    """int64 (N,), what `draws` returns where samples are repeated; None where each comes once in an epoch."""

    @property
    def draws(self) -> Tensor:
        """int64 (N,), the `ids` to pass to a preset, so that copies of a sample are augmented differently.

        The sample's id, plus the number of samples of the split for each earlier copy in the epoch.
        """
        return self.ids if self.copies is None else self.copies
