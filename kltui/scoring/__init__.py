"""Scoring: computes the log-likelihood vectors of a checkpoint on a corpus."""
