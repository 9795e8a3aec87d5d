"""One module for each way to reach a source; they are found by scanning this folder."""
