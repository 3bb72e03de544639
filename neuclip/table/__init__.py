"""URL table in; partitions of planned rows out.

Contract: every row of the table is in one partition, once, with a reason if it is not to be fetched. A partition is
keyed by its rows without their texts and by what becomes of them, so rows that are appended and columns of texts leave
the others alone.
"""
