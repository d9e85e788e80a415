"""The repository: a deduplicated, compressed, encrypted store of snapshots. docs/format.md specifies it."""
