"""SQLite: registry, jobs, vectors."""
