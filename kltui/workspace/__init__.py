"""An open workspace: what the interface, reports and notebooks query."""

from kltui.workspace.workspace import Workspace as Workspace
