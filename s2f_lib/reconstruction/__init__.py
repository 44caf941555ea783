"""Reconstruction of a face from any recording of a voice, with the models of a finished run."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
