"""dlib's face networks in torch, with the weights of dlib's own files."""
