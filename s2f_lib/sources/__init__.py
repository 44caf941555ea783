"""Sources of clips and faces: AVSpeech, the public face-voice pairs, UTKFace, and a generated population."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
