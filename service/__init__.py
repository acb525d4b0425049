"""Pixels and embeddings: reading, projecting, encoding, writing. No HTTP and no search index here."""
