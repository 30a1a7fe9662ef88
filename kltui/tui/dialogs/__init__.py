"""Dialogs over a screen: prompts, lists to choose from, forms."""
