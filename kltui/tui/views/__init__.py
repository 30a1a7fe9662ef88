"""The ten screens, one module each."""
