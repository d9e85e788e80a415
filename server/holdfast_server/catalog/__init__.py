"""The catalog: what the service knows, in SQLite. Rows, queries and migrations; no rules."""
