"""What is added to vLLM's workers, by the name of `NewWeights` (vLLM's ``worker_extension_cls``).

Importing it registers ``gloo`` as a backend of vLLM's weight transfer, too: ``--weight-transfer-config
'{"backend": "gloo"}'``.
"""

from __future__ import annotations

from typing import Any


class NewWeights:
    """What a vLLM worker does for `VllmEngine.load_weights`."""

    model_runner: Any
    reload_weights: Any

    def load_new_weights(self, folder: str) -> None:
        """Read the weights of a checkpoint folder into the running model."""
        self.reload_weights(weights_path=folder)
        renew_shared_heads(self.model_runner.get_model())


def renew_shared_heads(model: Any) -> None:
    """Pack a head that shares the embedding's weight anew; needed on a CPU alone.

    There vLLM multiplies by packed copies of weights, and 0.32 does not renew that of such a head: no tensor of the
    checkpoint is its own.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


def _register_gloo() -> None:
    try:
        from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    except ImportError:
        return  # a vLLM before its weight transfer: the other way, by folders, needs no backend
    if "gloo" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("gloo", "selfcorrect.engines.vllm_gloo", "GlooReceiver")


_register_gloo()
