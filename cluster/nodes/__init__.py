"""Ray nodes as daemons: start, join, find and stop them."""
