"""Shaded portraits of synthetic people."""
