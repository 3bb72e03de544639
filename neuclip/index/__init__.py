"""The DuckDB file that gives every training sample its dense id, place and captions."""
