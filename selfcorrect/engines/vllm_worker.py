"""`NewWeights`: what a vLLM worker does for `VllmEngine.load_weights`. vLLM mixes it into its worker class by name."""

from __future__ import annotations

from typing import Any


class NewWeights:
    """A worker extension (vLLM's ``worker_extension_cls``)."""

    model_runner: Any
    reload_weights: Any

    def load_new_weights(self, folder: str) -> None:
        """Read the weights of a checkpoint folder into the running model."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        self.reload_weights(weights_path=folder)
        if current_platform.is_cpu():
            # On a CPU vLLM multiplies by packed copies of weights, and 0.32 does not renew that of a head that shares
            # the embedding's: no tensor of the checkpoint is its own.
            for module in self.model_runner.get_model().modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)
