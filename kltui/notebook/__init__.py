"""Functions for notebooks: scoring without a workspace, data frames, plots, HTML tables."""
