"""One self-contained page of a workspace's figures, to be looked at with a mouse: nothing is fetched from anywhere."""
