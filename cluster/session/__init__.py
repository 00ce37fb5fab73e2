"""The Ray that a job runs on."""
