"""VGG-Face: the network and the forms of its weights."""
