"""The fold models as one versioned, immutable object: published, listed, verified, loaded, averaged."""
