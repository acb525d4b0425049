"""The commands of `smalti`, by what they are about."""
