"""VGG-Face: the network and the public files of its weights."""
