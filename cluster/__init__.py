"""Run jobs on Ray: command line, pipeline, Ray sessions and run store."""
