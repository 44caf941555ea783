"""Faces: detection, alignment, features."""
