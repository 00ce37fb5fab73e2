"""Pretraining of a student on texts without labels."""
