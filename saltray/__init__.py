"""Seismic tiles in, a versioned ensemble of cross-validated salt models out."""

import lazy_loader

# Each public name stands once, in __init__.pyi; its module is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
