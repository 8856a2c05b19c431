"""The GPU kit: what has only ever run on a CPU, run on one CUDA GPU, in ten minutes, without a network."""
