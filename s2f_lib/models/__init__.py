"""The voice encoder and the face decoder."""
