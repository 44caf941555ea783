"""The machinery that runs the chapters and builds the book."""
