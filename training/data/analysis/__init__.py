"""What a look at texts and labels shows: the columns of a table, labels that are probably wrong, near-duplicates."""
