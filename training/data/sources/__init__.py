"""Sources of labelled texts, each with its keys and reader in one module. Importing this registers them."""

from . import clinc, hub, table  # noqa: F401
