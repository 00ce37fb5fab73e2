"""Forecast of a job's time, disk and memory, from a few measured steps."""
