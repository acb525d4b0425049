"""The only door to pyarrow: tables of dated observations in, vectors out; Arrow IPC and Parquet."""

from service.tables.answer import PixelTable, write_arrow, write_columns
from service.tables.observations import read_table
from service.tables.open import Form

__all__ = ["Form", "PixelTable", "read_table", "write_arrow", "write_columns"]
