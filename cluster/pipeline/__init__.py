"""The stages of a job, from the data to the artifact."""
