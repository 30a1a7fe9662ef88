"""Checkpoints and runs: local folders, hub revisions, lineage."""

from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource, Source, layer_name
from kltui.registry.digest import fingerprint
from kltui.registry.discover import LocalFound, discover
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.registry.revisions import expand_revisions, parse_step

__all__ = [
    "Checkpoint",
    "HubSource",
    "LocalFound",
    "LocalSource",
    "ModelEntry",
    "Source",
    "checkpoints_from_entry",
    "discover",
    "expand_revisions",
    "fingerprint",
    "layer_name",
    "parse_step",
]
