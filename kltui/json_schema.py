"""Version number of the machine-readable output: events, reports, findings, benchmarks, exports."""

JSON_SCHEMA = 1  # increases if a field is removed or changes its meaning, not if one is added
