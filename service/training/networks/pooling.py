"""From a vector a date to one vector: attention over time with one learned query, with or without a recurrent cell."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import InvalidInput


def average(score: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """Mean of x (B, T, d) with weights softmax(score + bias) over time, both (B, T) -> (B, d)."""
    weights = (score if bias is None else score + bias).softmax(dim=1)
    return torch.einsum("bt,btd->bd", weights, x)


class Pool(nn.Module):
    """Each date is scored by itself (v2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1)

    def forward(
        self,
        x: Tensor,
        logm: Tensor | None = None,
        order: Tensor | None = None,  # noqa: ARG002 - called like the others
        steps: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """(B, T, d), (B, T) -> (B, d); order does not matter here."""
        return average(self.query(x).squeeze(-1), x, logm)


class RecurrentPool(Pool):
    """Each date is scored by what a recurrent cell knows when it gets there; dates themselves are averaged (v1.x)."""

    temporal_context: Any

    def context(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.temporal_context(x)  # type: ignore[no-any-return]

    def forward(
        self, x: Tensor, logm: Tensor | None = None, order: Tensor | None = None, steps: Tensor | None = None
    ) -> Tensor:
        """Walk the observations in the order given; without one, in the order they stand.

        Args:
            x: (B, T, d).
            logm: (B, T); tells nothing here, but asks for an order.
            order: (B, P) which of the T is next.
            steps: (B, P) 0, or -1e9 after the end.

        Raises:
            InvalidInput: Observations have multiplicities and no order.
        """
        if order is not None:
            x = x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
        elif logm is not None:
            raise InvalidInput("is needed where observations have multiplicities.", field="order")
        return average(self.query(self.context(x)).squeeze(-1), x, steps)


class GruPool(RecurrentPool):
    """With torch's own GRU (v1.0 early)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.temporal_context = nn.GRU(width, width, batch_first=True)

    def context(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.temporal_context(x)[0]  # type: ignore[no-any-return]


class CellPool(RecurrentPool):
    """With the cell below and a norm behind it (v1.0 QAT, v1.1)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.temporal_context = Recurrence(width)
        self.layer_norm = nn.LayerNorm(width)

    def context(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.layer_norm(self.temporal_context(x))  # type: ignore[no-any-return]


class Cell(nn.Module):
    """Weights of a gated recurrent cell that is not torch's: see `Recurrence`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for source in "ih":
            for gate in "rzh":
                self.add_module(f"W_{source}{gate}", nn.Linear(width, width, bias=False))
        for gate in "rzh":
            self.register_parameter(f"b_{gate}", nn.Parameter(torch.zeros(width)))

    def stacked(self, source: str, gates: str) -> Tensor:
        """(len(gates) d, d) weights on the input `i` or the state `h`."""
        return torch.cat([self.get_submodule(f"W_{source}{gate}").weight for gate in gates])  # type: ignore[misc]

    @property
    def bias(self) -> Tensor:
        """(3 d,), gates r, z, h."""
        return torch.cat([self.get_parameter(f"b_{gate}") for gate in "rzh"])


class Recurrence(nn.Module):
    """The cell over a series, from a state of zeros.

    r = sigmoid(W_ir x + W_hr h + b_r); z = sigmoid(W_iz x + W_hz h + b_z); g = tanh(W_ih x + W_hh (r h) + b_h);
    h' = (1 - z) h + z g (TESSERA v1.0 and v1.1 code). Unlike torch's GRU it resets before the product, and z selects
    the new value.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru_cell = Cell(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d), the state after each step."""
        cell, h, states = self.gru_cell, torch.zeros_like(x[:, 0]), []
        gates_h, new_h = cell.stacked("h", "rz"), cell.stacked("h", "h")
        from_x = F.linear(x, cell.stacked("i", "rzh"), cell.bias).tensor_split((2 * x.shape[-1],), dim=-1)
        for gates_x, new_x in zip(from_x[0].unbind(1), from_x[1].unbind(1), strict=True):
            r, z = (gates_x + F.linear(h, gates_h)).sigmoid().chunk(2, dim=-1)
            g = (new_x + F.linear(r * h, new_h)).tanh()
            h = (1 - z) * h + z * g
            states.append(h)
        return torch.stack(states, dim=1)
