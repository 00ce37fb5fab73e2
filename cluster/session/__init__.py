"""Ray sessions: the Ray instance that a job runs on."""
