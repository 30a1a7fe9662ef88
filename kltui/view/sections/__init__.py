"""The sections of a report, in one module per group; `catalogue` lists them."""
