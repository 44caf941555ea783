"""Embeddings of voices."""
