"""Checkpoints and runs: local folders, hub revisions, lineage."""

from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource, Source, layer_name

__all__ = ["Checkpoint", "HubSource", "LocalSource", "Source", "layer_name"]
