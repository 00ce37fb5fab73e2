"""Bad inputs for every command, file and artifact, and the error that each must cause."""
