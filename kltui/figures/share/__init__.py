"""One self-contained interactive HTML page with a workspace's figures; it loads nothing from the network."""
