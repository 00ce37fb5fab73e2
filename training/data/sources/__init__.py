"""Sources of labelled texts: a file for each, its keys beside its reader. Importing this registers them."""

from . import clinc, hub, table  # noqa: F401
