"""What all training programs share: settings, the stage, models, LoRA, processes, memory, metrics, model cards."""
