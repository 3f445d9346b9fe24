"""Complex numbers as CUDA C++ on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from tests.gpu.complex_cases import PAIRS, agree, forms_agree
from tests.gpu.cuda_shim import has_compiler
from tests.gpu.cuda_stand_in import OnCpu

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_complex_recurrences_agree_with_the_definition(
    name: str, schedule: str, on_cpu: OnCpu, rng: np.random.Generator
) -> None:
    agree(name, schedule, "cuda", rng)


def test_every_form_of_complex_expression_agrees_with_the_definition(on_cpu: OnCpu, rng: np.random.Generator) -> None:
    forms_agree("cuda", rng)
