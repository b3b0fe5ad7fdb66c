"""The loop in plain PyTorch: losses, metrics, schedule, one fold from its first step to its last."""
