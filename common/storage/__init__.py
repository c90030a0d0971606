"""What the embedded adapters stand on: the data folder, SQLite with group commit, doorbells."""
