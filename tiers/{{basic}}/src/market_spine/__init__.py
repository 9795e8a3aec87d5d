"""Market computations, from raw trades to daily metrics."""
