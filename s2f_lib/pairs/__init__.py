"""The study of Speech2Face's public pairs."""
