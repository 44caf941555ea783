"""Distances, retrieval, statistics and reconstruction, as tables."""
