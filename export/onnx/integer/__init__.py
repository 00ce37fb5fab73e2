"""Graphs of convolutions whose nodes all compute in integers, with scales fixed before the export."""
