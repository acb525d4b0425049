"""Likeness over HTTP: what may be asked, what it means, and the forms in which answers come."""
