"""llmtrain: train, finetune, evaluate and run language models from YAML recipes."""

__version__ = "0.1.0"
