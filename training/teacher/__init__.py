"""The teacher, and the cache of its logits."""
