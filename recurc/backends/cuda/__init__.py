"""Plans as CUDA C++ for NVIDIA GPUs: persistent recurrent networks, fused loops and block scans."""

from recurc.backends.cuda.backend import BACKEND, CudaBackend

__all__ = ["BACKEND", "CudaBackend"]
