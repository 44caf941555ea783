"""The machinery that runs the chapters, puts their results on pages and builds the book."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
