"""One module for each kind of database; they are found by scanning this folder."""
