"""The terminal under the interface: what it shows, what it sends, and how it is left as it was found."""
