"""Tiles: read, check, pack, split into folds, augment, synthesise, run-length encode."""
