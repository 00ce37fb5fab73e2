"""Plans: try changes to a job one after another."""
