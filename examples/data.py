"""The data of the examples: they come with a package or lie beside it, so nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Array = np.ndarray


def sunspots() -> tuple[Array, Array]:
    """Years `(309,)` and mean sunspot numbers `(309,)`, 1700 to 2008.

    From statsmodels; the numbers are those of the Royal Observatory of Belgium, in the public domain."""
    from statsmodels.datasets import sunspots as source

    table = source.load_pandas().data
    return table["YEAR"].to_numpy(), table["SUNACTIVITY"].to_numpy()


def digits() -> tuple[Array, Array]:
    """Handwritten digits `(1797, 8, 8)` with values 0 to 1, and what they show `(1797,)`.

    From scikit-learn: the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI)."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return loaded.images / 16.0, loaded.target


def shakespeare() -> str:
    """Scenes from Shakespeare's plays, 299,868 characters: examples/texts says where they are from."""
    return (Path(__file__).parent / "texts" / "shakespeare.txt").read_text(encoding="ascii")
