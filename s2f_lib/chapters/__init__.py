"""What the chapters show: one module per notebook, and what they share."""
