"""Reads vectors and benchmark scores of other programs: modelmap, lm-evaluation-harness, tables, and kltui's own exports."""
