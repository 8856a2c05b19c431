"""Stage 1: self-correction data, sampled and kept by rejection."""
