"""Where the work runs and how people reach it: command line, pipeline, local Ray, run store."""
