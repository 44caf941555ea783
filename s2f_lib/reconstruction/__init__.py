"""A recording to a face."""
