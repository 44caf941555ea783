"""Losses, data, the training loop and the trainings of encoder, decoders and the VGG-Face substitute."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
