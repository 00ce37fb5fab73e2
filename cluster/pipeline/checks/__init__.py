"""What is checked before a job costs time: its specification, models and texts, and the cluster that it runs on."""
