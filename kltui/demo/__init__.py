"""Pretrains a small suite on this machine: the embedded main job."""
