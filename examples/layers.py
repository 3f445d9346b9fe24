"""A recurrence as one layer of a network, whatever its inputs are: linear maps around it, from vectors to vectors."""

from __future__ import annotations

from typing import Any

import torch

import recurc


class Mixer(torch.nn.Module):
    """`rec` with dims of `sizes`, from sequences of vectors `(*batch, T, width)` to such sequences.

    One linear map makes all inputs of a step, another brings its one output back to `width`. A recurrence that reads
    one vector of `width` by weights of its own reads the sequence as it is."""

    def __init__(self, rec: recurc.Recurrence, width: int, **sizes: int) -> None:
        super().__init__()
        self.inner = rec.module(**sizes)
        sizes = self.inner.sizes[0]  # with the defaults of those left out
        (out,) = (torch.Size([sizes[d] for d in s.dims]).numel() for s in rec.outputs.values())
        self.shapes = {name: torch.Size([sizes[d] for d in s.dims]) for name, s in rec.inputs.items()}
        alone = list(self.shapes.values()) == [torch.Size([width])]
        self.into = (
            torch.nn.Identity() if alone else torch.nn.Linear(width, sum(s.numel() for s in self.shapes.values()))
        )
        self.back = torch.nn.Identity() if out == width else torch.nn.Linear(out, width)

    def forward(self, x: torch.Tensor, initial: dict[str, Any] | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
        """What comes out, and the final states by name; given as `initial`, a later call goes on from them."""
        parts = self.into(x).split([s.numel() for s in self.shapes.values()], -1)
        inputs = {n: p.reshape(*x.shape[:-1], *s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}
        y, final = self.inner(**inputs, initial=initial)
        return self.back(y.reshape(*x.shape[:-1], -1)), final
