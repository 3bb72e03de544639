"""The files of a committed shard folder."""

MEMBERS = "members.parquet"
