"""One module for each group of endpoints, with its `router`, found by scanning this folder."""
