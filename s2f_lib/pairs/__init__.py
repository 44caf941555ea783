"""The public face-voice pairs of Speech2Face's authors: systems that are trained and tested on them."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
