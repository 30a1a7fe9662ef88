"""The widgets of the screens: panes, tables, plots."""
