"""Early stopping: a file for each rule, and Tune's scheduler that applies it. Importing this registers the rules."""

from . import none, asha, median  # noqa: F401, I001 - in the order in which they are listed
