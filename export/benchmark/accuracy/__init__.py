"""Accuracy of measured models and of predictions on labelled texts."""
