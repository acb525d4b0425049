"""Pixels and embeddings: reading, projecting, encoding, writing. No HTTP and no search index here."""

from typing import Final

VERSION: Final = "0.1.0"
