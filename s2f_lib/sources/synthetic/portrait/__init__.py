"""Painting of the portraits: geometry, skin, features and hair."""
