"""Face reconstruction from speech: preparation, models, training and evaluation.

The import is light: a public name is imported when it is first used, and with it the library that it needs
(torch, dlib, PyAV).
"""

import importlib.metadata

import lazy_loader

from s2f_lib.extras import install_finder

install_finder()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = importlib.metadata.version("s2f_lib")
