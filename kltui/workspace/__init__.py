"""One folder of work, opened: what the interfaces, reports and notebooks talk to."""

from kltui.workspace.workspace import Workspace as Workspace
