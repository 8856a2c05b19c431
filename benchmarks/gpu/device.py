"""The card, the packages, and how fast it multiplies and copies: what the other parts' figures are shares of."""

from __future__ import annotations

import os
import time
from importlib import metadata

import torch

from benchmarks.gpu.results import device, options, record, synchronize

WANTED = ("torch", "transformers", "trl", "datasets", "accelerate", "peft", "numpy", "sympy", "python-flint", "numba")


def main() -> None:
    """Record the card, the versions, and the rates of matrix products."""
    out, small = options(__doc__)
    versions = {}
    for name in WANTED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 0.0
    record(out, "device", cores=os.cpu_count(), memory_gb=round(memory, 1), versions=versions)
    for dtype in (torch.bfloat16, torch.float32):
        record(out, "device", dtype=str(dtype), tflops=round(matmul_tflops(256 if small else 8192, dtype), 1))


def matmul_tflops(size: int, dtype: torch.dtype, times: int = 10) -> float:
    """Return the rate of products of square matrices of random numbers, in 10^12 operations a second."""
    a, b = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    synchronize()
    started = time.perf_counter()
    for _ in range(times):
        a @ b
    synchronize()
    return 2 * size**3 * times / (time.perf_counter() - started) / 1e12


if __name__ == "__main__":
    main()
