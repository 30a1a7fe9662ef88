"""Figures for a paper: pictures of a map as vectors, each with its CSV and a script that redraws it."""
