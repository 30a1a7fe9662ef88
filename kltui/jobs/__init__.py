"""Jobs: a job file becomes a plan, an executor runs it, and the results are written to the store."""
