"""Which recurrences can count modulo 2? Each reads random bits and says after every one whether the ones so far are
odd; it learns on short sequences and is asked about long ones.

A state that is multiplied by numbers from 0 to 1 can only keep or forget, which does not do. A gated nonlinear state
can flip, and so can a delta rule whose step may be larger than 1: with a key of length 1 and a step of 2, what is
stored under the key changes its sign. See R. Grazzi et al. (2024), "Unlocking State-Tracking in Linear RNNs Through
Negative Eigenvalues"."""

from __future__ import annotations

from collections.abc import Iterable

from examples.training import Trained, fit, main

WIDTH, BATCH, STEPS, LONGEST, ASKED = 16, 64, 800, 64, 256
RATE = 3e-2
NAMES = ("LSTM", "DeltaNet, steps to 2", "DeltaNet, steps to 1", "minGRU")

# The 4 is there so that training brings the step near to its ends, where nothing is forgotten, in fewer steps.
DELTA_NET = """
recurrence DeltaNet(H, K, V):
    input  q[H, K], k[H, K], v[H, V], beta[H]
    state  S[H, K, V] = 0

    key = l2norm(k, K)
    S = S[t-1] + key * ({top} * sigmoid(4 * beta) * (v - key @ S[t-1]))
    output o = l2norm(q, K) @ S
"""


def train(steps: int = STEPS, seed: int = 0, names: Iterable[str] = NAMES) -> Trained:
    import torch

    import recurc
    from examples.layers import Mixer

    def parity(length: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        bits = torch.randint(2, (count, length))
        return bits, bits.cumsum(1) % 2

    def delta_net(top: int) -> Mixer:
        return Mixer(recurc.load(text=DELTA_NET.format(top=top)), WIDTH, H=8, K=2, V=4)

    layers = {
        "LSTM": lambda: Mixer(recurc.zoo.load("lstm"), WIDTH, D=WIDTH, H=WIDTH),
        "DeltaNet, steps to 2": lambda: delta_net(2),
        "DeltaNet, steps to 1": lambda: delta_net(1),
        "minGRU": lambda: Mixer(recurc.zoo.load("min_gru"), WIDTH, D=WIDTH, H=2 * WIDTH),
    }
    losses, right = {}, {}
    for name in names:
        torch.manual_seed(seed)
        embed, layer = torch.nn.Embedding(2, WIDTH), layers[name]()
        readout = torch.nn.Sequential(torch.nn.Linear(WIDTH, 32), torch.nn.GELU(), torch.nn.Linear(32, 2))
        net = torch.nn.ModuleList([embed, layer, readout])

        def guess(bits: torch.Tensor, embed=embed, layer=layer, readout=readout) -> torch.Tensor:
            return readout(layer(embed(bits))[0])

        def loss(step: int, guess=guess) -> torch.Tensor:
            length = min(LONGEST, 2 + LONGEST * step * 5 // (3 * steps))  # the longest from three fifths of the time on
            bits, odd = parity(length, BATCH)
            return torch.nn.functional.cross_entropy(guess(bits).flatten(0, 1), odd.flatten())

        losses[name] = fit(net.parameters(), loss, steps, RATE, f"{name} on parity")
        with torch.no_grad():
            bits, odd = parity(ASKED, 256)
            right[name] = float((guess(bits).argmax(-1) == odd)[:, LONGEST:].float().mean())
    said = ", ".join(f"{name} {share:.1%}" for name, share in right.items())
    says = f"right at bits {LONGEST + 1} to {ASKED}, after training on at most {LONGEST}: {said}"
    return Trained("Parity of random bits", says, losses)


if __name__ == "__main__":
    main(train, "parity.png")
