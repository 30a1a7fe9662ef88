"""A job file becomes a plan, an executor runs it, the store keeps what comes back."""
