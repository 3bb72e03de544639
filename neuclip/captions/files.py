"""The files of a committed caption folder."""

CAPTIONS = "captions.parquet"
