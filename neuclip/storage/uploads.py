"""Uploads to S3 in several parts that were never finished: they cost money and no listing shows them."""

import logging
from typing import Any

from neuclip.storage.filesystems import filesystem

log = logging.getLogger(__name__)


def abort_uploads(folder_uri: str) -> None:
    """Abort the unfinished uploads below a folder of S3; only who alone writes there may do so.

    A storage that cannot list them, or forbids it, keeps them: a lifecycle rule of the bucket removes them.
    """
    if not folder_uri.startswith("s3://"):
        return
    files, path = filesystem(folder_uri)
    bucket, prefix, _ = files.split_path(path)
    try:
        found: dict[str, Any] = files.call_s3(
            "list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/"
        )
        for upload in found.get("Uploads", []):
            where = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            files.call_s3("abort_multipart_upload", **where)
    except OSError as error:
        log.info("unfinished uploads below %s are left: %s", folder_uri, error)
