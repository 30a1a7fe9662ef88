"""Figures for a paper as vector graphics, each with its points as CSV and a script that redraws it from them."""
