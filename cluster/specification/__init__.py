"""The job's specification: read, checked, with its presets."""
