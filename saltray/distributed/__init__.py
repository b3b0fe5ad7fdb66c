"""Ray at the rim: a fold as a TorchTrainer, five at once, inference as a stream."""
