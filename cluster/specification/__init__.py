"""The job's specification: reading, validation and presets."""
