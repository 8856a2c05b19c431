"""Our engine: continuous batching over a transformers model, on a CPU without padding."""
