"""OTC trades: from what a source sends to what a symbol did in a day."""
