"""A generated population with known latents, as MP4 clips in AVSpeech's form (design section 3.1)."""
