"""An LSTM learns to name handwritten digits, one row of pixels per step: recurc's `lstm` as a layer of torch."""

from __future__ import annotations

from examples.data import digits
from examples.training import Trained, fit, main

HIDDEN, BATCH, STEPS, TRAIN = 64, 64, 600, 1200


def train(steps: int = STEPS) -> Trained:
    import torch

    import recurc

    torch.manual_seed(0)
    images, labels = (torch.as_tensor(a) for a in digits())
    images = images.float()
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    known, unseen = mixed[:TRAIN], mixed[TRAIN:]
    layer = recurc.zoo.load("lstm").module(D=8, H=HIDDEN)
    readout = torch.nn.Linear(HIDDEN, 10)

    def guess(which: torch.Tensor) -> torch.Tensor:
        _, final = layer(images[which])
        return readout(final["h"])

    def loss(step: int) -> torch.Tensor:
        which = known[torch.randint(TRAIN, (BATCH,))]
        return torch.nn.functional.cross_entropy(guess(which), labels[which])

    losses = fit([*layer.parameters(), *readout.parameters()], loss, steps, 1e-2, "an LSTM on digits")
    with torch.no_grad():
        right = (guess(unseen).argmax(1) == labels[unseen]).float().mean()
    return Trained("Digits, row by row", f"{right:.1%} of {len(unseen)} unseen digits named", {"LSTM": losses})


if __name__ == "__main__":
    main(train, "digits.png")
