"""The eight screens, one module each."""
