"""Where texts come from: files, the hub, CLINC150's format, the corpus in the package."""
