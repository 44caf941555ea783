"""The networks: voice encoder and face decoders, and the use of trained ones."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
