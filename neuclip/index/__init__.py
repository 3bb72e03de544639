"""The sample index: a DuckDB file that gives every training sample its dense id, its place, and what is known of it.

Contract: tables `parts`, `samples`, `features`, `clusters` and `sample_statistics` (database.py), all but `parts` with
one row or none for a sample (and model, or step). The file is never changed after its commit; open it read-only, as
many processes as there are. The member tables of the shard stage's parts are the Parquet twin of `samples`.
"""
