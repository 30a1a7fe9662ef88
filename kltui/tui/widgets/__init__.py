"""What stands on a screen: panes, tables, plots."""
