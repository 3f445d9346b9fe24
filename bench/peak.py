"""The multiply-add rate of this machine: a C loop that touches nothing but registers, on every core."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path

from recurc.runtime.compiler import build_shared, find_compiler, library_suffix

_REPEATS = 400_000
_CHAINS = 16  # independent sums: enough to hide the latency of one multiply-add behind the others
_SOURCE = """
typedef float vec __attribute__((vector_size({width})));

float peak(long repeats, int threads) {{
    float all = 0;
    #pragma omp parallel for num_threads(threads) reduction(+ : all)
    for (int thread = 0; thread < threads; thread++) {{
        vec sums[{chains}], a, b;
        for (int i = 0; i < {width} / 4; i++) a[i] = 0.5f + thread, b[i] = 1e-3f * i;
        for (int c = 0; c < {chains}; c++) sums[c] = a * (float)c;
        for (long r = 0; r < repeats; r++) {{
            #pragma GCC unroll {chains}
            for (int c = 0; c < {chains}; c++) sums[c] = sums[c] * a + b;
        }}
        for (int c = 0; c < {chains}; c++) all += sums[c][0];
    }}
    return all;
}}
"""


def multiply_adds_per_second(threads: int) -> float:
    """f32 operations a second (a multiply-add is two) of the best of some runs."""
    from bench.measure import interleaved

    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="recurc-peak-") as folder:
        source = Path(folder) / "peak.c"
        source.write_text(_SOURCE.format(width=compiler.vector_bytes, chains=_CHAINS), encoding="utf-8")
        library = source.with_suffix(library_suffix())
        build_shared(compiler, source, library)
        peak = ctypes.CDLL(str(library)).peak
        peak.argtypes, peak.restype = [ctypes.c_long, ctypes.c_int], ctypes.c_float
        times = interleaved({"peak": lambda: peak(_REPEATS, threads)}, budget=1.0)
    flops = 2.0 * _REPEATS * _CHAINS * (compiler.vector_bytes // 4) * threads
    return flops / times["peak"].best
