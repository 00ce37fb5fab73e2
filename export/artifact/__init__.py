"""The sealed artifact: its manifest, its hashes, its copies."""
