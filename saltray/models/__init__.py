"""Segmentation networks, and the weights that others have trained for them."""
