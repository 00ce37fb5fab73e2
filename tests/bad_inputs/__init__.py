"""Bad inputs of every command, file and artifact, and what each must be answered with."""
