"""The embedded model: its corpus and its pre-training."""
