"""What asks over a screen: lines, choices, forms."""
