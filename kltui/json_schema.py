"""The number of the form that machine-readable output has: events, reports, findings, benchmarks, exports."""

JSON_SCHEMA = 1  # goes up when a field goes or comes to mean something else, not when one joins
