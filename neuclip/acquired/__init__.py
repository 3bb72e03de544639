"""What acquire leaves for the stages below: outcome rows, images and texts, whether they were fetched or adopted.

Contract: a committed stage lists its partitions in order (listing.py). A partition is a part with `rows.parquet`, one
row for every row of the input, and a tar with its images; its texts are a part of their own. No row is lost without a
reason (reasons.py), and none that is refused or was taken down has an image (refusals.py).
"""
