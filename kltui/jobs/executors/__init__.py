"""Where checkpoints are scored: worker processes on this machine, or actors of a Ray cluster."""
