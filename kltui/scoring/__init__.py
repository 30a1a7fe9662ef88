"""One checkpoint and a corpus in, log-likelihood vectors out."""
