"""The demo: pretrains a small suite of models on this machine and scores all their checkpoints."""
