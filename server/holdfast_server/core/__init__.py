"""What a backup, a verification and a restore are: the data path, without tasks, catalog or wire."""
