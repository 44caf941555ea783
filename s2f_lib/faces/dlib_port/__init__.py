"""dlib's face networks in torch, read from dlib's own files."""
