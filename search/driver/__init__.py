"""The driver of a search: runs Ray Tune, its callbacks and the bookkeeping around it."""
