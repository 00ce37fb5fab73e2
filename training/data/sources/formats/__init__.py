"""File formats of labelled texts, each read into a table that keeps the line or row of every value."""
