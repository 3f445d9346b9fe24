"""Plans as Triton kernels for GPUs: generated, readable modules that run without recurc."""

from recurc.backends.triton.backend import BACKEND, TritonBackend
from recurc.backends.triton.kernel import Options

__all__ = ["BACKEND", "Options", "TritonBackend"]
