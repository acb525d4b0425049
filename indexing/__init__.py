"""Likeness: which pixels look like these ones. Stands on `service`; knows no HTTP."""
