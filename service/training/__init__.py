"""Encoders and how they are made: the only room with torch, an optional extra."""
