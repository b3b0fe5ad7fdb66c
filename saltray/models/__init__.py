"""Segmentation networks, and the loading of pretrained weights."""
