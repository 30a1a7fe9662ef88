"""Watching a run during training: each checkpoint is scored once it is complete, and unusual values raise alerts."""
