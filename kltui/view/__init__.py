"""Maps to scenes, tables and plots, without textual."""
