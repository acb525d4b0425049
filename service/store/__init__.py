"""The only door to zarr and icechunk: one Store contract, a reader per published layout, the writable layout."""
