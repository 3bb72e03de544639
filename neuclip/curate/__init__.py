"""Rules over outcome rows in DuckDB; a verdict row for every acquired pair."""
