"""The training loop in plain PyTorch: losses, metrics, schedule, evaluation and inference."""
