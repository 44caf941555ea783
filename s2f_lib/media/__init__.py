"""Media files: decoding, JPEG, spectrograms, and the check for speech."""
