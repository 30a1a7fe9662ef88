"""The terminal: output, input, and restoring its state at the end."""
