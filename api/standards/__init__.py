"""What the standards want told of layers: OGC tile sets and maps, TileJSON, WMTS, and the links between them."""
