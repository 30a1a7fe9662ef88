"""The figures and tables of the papers, drawn from their released files."""
