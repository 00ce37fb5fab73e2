"""The sealed artifact: manifest, hashes and copies."""
