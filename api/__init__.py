"""The doors: HTTP, the map page, the command line. Stands on `indexing` and `service`."""
