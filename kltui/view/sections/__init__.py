"""Sections of a report, one module for each group; `catalogue` lists them."""
