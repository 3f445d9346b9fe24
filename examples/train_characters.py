"""Five recurrences learn to guess the next character of Shakespeare: an LSTM, minGRU, Mamba (whose scan is S6), Gated
DeltaNet and Titans, each as the one recurrent layer of the same small network."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

import recurc
from examples.data import shakespeare
from examples.layers import Mixer
from examples.training import Trained, fit, main

WIDTH, STREAMS, LENGTH, STEPS, RATE = 64, 32, 64, 600, 1e-2
CARRY = True  # each piece of a stream starts from the states that the piece before it ended with, detached

# Titans with a linear memory per head; the gates are made from plain numbers here.
TITANS = """
recurrence Titans(H, K, V):
    input  q[H, K], k[H, K], v[H, V], alpha[H], eta[H], theta[H]
    state  M[H, K, V] = 0
    state  S[H, K, V] = 0

    loss = sum((l2norm(k, K) @ M[t-1] - v)**2, H, V) / 2
    S = sigmoid(eta) * S[t-1] - sigmoid(theta) * grad(loss, M[t-1])
    M = (1 - sigmoid(alpha - 4)) * M[t-1] + S
    output y = l2norm(q, K) @ M
"""

LAYERS: dict[str, Callable[[], Mixer]] = {  # of about 25,000 parameters each
    "LSTM": lambda: Mixer(recurc.zoo.load("lstm"), WIDTH, D=WIDTH, H=48),
    "minGRU": lambda: Mixer(recurc.zoo.load("min_gru"), WIDTH, D=WIDTH, H=128),
    "Mamba": lambda: Mixer(recurc.zoo.load("mamba"), WIDTH, D=WIDTH, E=112, R=4, N=8),
    "Gated DeltaNet": lambda: Mixer(recurc.zoo.load("gated_delta_net"), WIDTH, H=4, K=16, V=32),
    "Titans": lambda: Mixer(recurc.load(text=TITANS), WIDTH, H=4, K=16, V=32),
}


class Characters(torch.nn.Module):
    """From characters `(*batch, T)` as numbers below `kinds` to scores `(*batch, T, kinds)` of the one after each."""

    def __init__(self, kinds: int, mixer: Mixer) -> None:
        super().__init__()
        self.embed, self.mixer = torch.nn.Embedding(kinds, WIDTH), mixer
        self.norms = torch.nn.ModuleList(torch.nn.RMSNorm(WIDTH) for _ in range(3))
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.GELU(), torch.nn.Linear(2 * WIDTH, WIDTH)
        )
        self.readout = torch.nn.Linear(WIDTH, kinds)

    def forward(self, text: torch.Tensor, initial: dict[str, Any] | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
        x = self.embed(text)
        y, final = self.mixer(self.norms[0](x), initial)
        x = x + y
        x = x + self.mlp(self.norms[1](x))
        return self.readout(self.norms[2](x)), final


def bits(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Per character, of scores `(*batch, T, kinds)` for what came, `(*batch, T)`."""
    return torch.nn.functional.cross_entropy(scores.flatten(0, -2), wanted.flatten()) / math.log(2)


def counted(known: str, unseen: str, order: int) -> float:
    """Bits per character of `unseen`, which follows `known`, by counts of runs of `order` characters in `known`;
    shorter runs stand in for rare ones (I. Witten and T. Bell, 1991)."""
    text, kinds = known + unseen, len(set(known + unseen))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for n in range(order):
        for i in range(n, len(known)):
            counts[known[i - n : i]][known[i]] += 1
    totals = {run: (after.total(), len(after)) for run, after in counts.items()}
    spent = 0.0
    for i in range(len(known), len(text)):
        chance = 1 / kinds
        for n in range(order):
            if (run := text[i - n : i]) in totals:
                total, different = totals[run]
                chance = (counts[run][text[i]] + different * chance) / (total + different)
        spent -= math.log2(chance)
    return spent / len(unseen)


@torch.no_grad()
def sample(net: Characters, kinds: list[str], start: str, count: int) -> str:
    """`count` characters that `net` writes after `start`, one call and one step each, from the states handed on."""
    text, states = torch.tensor([kinds.index(c) for c in start]), None
    written = ""
    for _ in range(count):
        scores, states = net(text, states)
        text = torch.multinomial(scores[-1].div(0.7).softmax(-1), 1)
        written += kinds[int(text)]
    return written


def train(steps: int = STEPS, names: Iterable[str] = LAYERS) -> Trained:
    text = shakespeare()
    kinds, cut = sorted(set(text)), len(text) * 9 // 10
    coded = torch.tensor([kinds.index(c) for c in text])
    streams = coded[: cut // STREAMS * STREAMS].reshape(STREAMS, -1)
    pieces = streams.shape[1] // LENGTH - 1  # of each stream in one pass, from a place drawn for each pass
    losses, found, written = {}, {}, {}
    for name in names:
        torch.manual_seed(0)
        net = Characters(len(kinds), LAYERS[name]())
        start, states = 0, None

        def loss(step: int, net=net) -> torch.Tensor:
            nonlocal start, states
            if step % pieces == 0:
                start, states = int(torch.randint(LENGTH, ())), None
            at = start + step % pieces * LENGTH
            scores, final = net(streams[:, at : at + LENGTH], states)
            states = {n: s.detach() for n, s in final.items()} if CARRY else None
            return bits(scores, streams[:, at + 1 : at + LENGTH + 1])

        size = sum(p.numel() for p in net.parameters())
        losses[name] = fit(net.parameters(), loss, steps, RATE, f"{name}, {size:,} parameters")
        with torch.no_grad():
            found[name] = float(bits(net(coded[cut - 1 : -1])[0], coded[cut:]))  # in one call, over all its steps
        written[name] = sample(net, kinds, "\n", 160)
    grams = {f"{n} characters": counted(text[:cut], text[cut:], n) for n in (2, 3, 4, 5)}
    ours, theirs = (", ".join(f"{n} {v:.2f}" for n, v in by.items()) for by in (found, grams))
    says = f"bits per unseen character: {ours}; by counting runs of {theirs}"
    return Trained(
        "Characters of Shakespeare", "\n\n".join([says, *(f"{n} writes: {w}" for n, w in written.items())]), losses
    )


if __name__ == "__main__":
    main(train, "characters.png")
