"""Find checkpoints, check them against their configuration, load them and save them."""
