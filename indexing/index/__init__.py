"""An index of the pixels of one window: built as a stream, grown by segments, mapped from disk, searched by FAISS."""
