"""Rows of packed documents as the network takes them, with all that depends on where documents end.

It is found on the host, ahead of the step (training/data/prefetch.py): a GPU would have to be waited for.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch


class PackedRows(NamedTuple):
    """The rows of a micro-batch; all tensors int64 and on one device."""

    tokens: torch.Tensor
    """(rows, length + 1): inputs are all but the last column, targets all but the first."""

    lengths: torch.Tensor
    """(rows,): row i bears loss on its first lengths[i] targets."""

    where: torch.Tensor
    """(targets,): the places in the flattened inputs whose targets bear loss."""

    boundaries: torch.Tensor
    """(documents + 1,): where documents begin in the flattened inputs, and where the last ends."""

    @property
    def inputs(self) -> torch.Tensor:
        """(rows, length)."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> torch.Tensor:
        """(targets,): those that bear loss."""
        return self.tokens[:, 1:].flatten().index_select(0, self.where)


def pack_rows(tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], *, boundary_id: int) -> PackedRows:
    """Find what a micro-batch needs beside its tokens (rows, length + 1) and lengths (rows,).

    A document begins with each row and at each `boundary_id`: the piece that begins a text, or else that which ends a
    document and stands before the next one, as it does when text is scored. NumPy finds it, since a thread that calls
    PyTorch would start threads of its own.
    """
    begins = tokens[:, :-1] == boundary_id
    begins[:, 0] = True
    bears_loss = np.arange(begins.shape[1]) < lengths[:, None]
    boundaries = np.append(np.flatnonzero(begins), begins.size)
    return PackedRows(*map(torch.from_numpy, (tokens, lengths, np.flatnonzero(bears_loss), boundaries)))


def document_positions(inputs: torch.Tensor, *, boundary_id: int) -> torch.Tensor:
    """Return each token's place (rows, length) in its document."""
    place = torch.arange(inputs.shape[1], device=inputs.device)
    return place - torch.where(inputs == boundary_id, place, 0).cummax(1).values
