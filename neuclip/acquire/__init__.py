"""URL table in; raw shards and one outcome row for every input row out. Contract: no row is lost without a reason."""
