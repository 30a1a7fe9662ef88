"""Maps as tables, text plots, report sections and plot data, independent of Textual."""
