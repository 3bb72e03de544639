"""What the file systems raise, turned into one StorageError that says what to do."""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import aiohttp
import botocore.exceptions

from neuclip.foundation.errors import NeuclipError, StorageError, TransientStorageError
from neuclip.foundation.os_errors import sentence_of
from neuclip.storage.filesystems import filesystem
from neuclip.storage.uris import is_local

_BUSY = (errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO))
"""What s3fs makes of SlowDown, ServiceUnavailable and InternalError; RequestTimeout becomes TimeoutError."""
_UNREACHABLE = (
    botocore.exceptions.EndpointConnectionError,
    botocore.exceptions.ConnectionClosedError,
    botocore.exceptions.HTTPClientError,
)
_EXPIRED = (
    "the session token has expired; get new credentials and set AWS_SESSION_TOKEN with its two keys"
)
_REGION = (
    "the bucket is in another region{region}; set AWS_DEFAULT_REGION to the bucket's region, and AWS_ENDPOINT_URL "
    "too if it names a region"
)
_CLOCK = "the clock of this machine differs too much from that of storage; set it (for instance by NTP), then run again"
_DENIED = (
    "permission denied; check the AWS_* keys and the policies of bucket and user for this action"
)
_SENTENCES = {
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": "storage does not accept the session token; AWS_SESSION_TOKEN must be the one that came with the "
    "access key, and must be unset for a key without one",
    "InvalidAccessKeyId": "storage does not know this access key; check AWS_ACCESS_KEY_ID, and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the signature does not fit the access key; check AWS_SECRET_ACCESS_KEY for a missing or "
    "added character",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "NoSuchBucket": "there is no such bucket; check its name and AWS_ENDPOINT_URL, or create it",
    "InvalidBucketName": "this is no name of a bucket; expected s3://BUCKET/KEY with a bucket of 3 to 63 lower-case "
    "letters, digits, dots and hyphens",
    "InvalidObjectState": "the object is archived; restore it to a class that can be read, then run again",
    "XMinioStorageFull": "storage is full; free space there, then run again",
    "QuotaExceeded": "the quota of the bucket is used up; raise it or free space, then run again",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AccountProblem": _DENIED,
    "403": _DENIED,
}
_LATER = {
    "SlowDown": "storage asks for fewer requests (SlowDown); run again later or with fewer processes",
    "TooManyRequests": "storage asks for fewer requests; run again later or with fewer processes",
    "429": "storage asks for fewer requests; run again later or with fewer processes",
    "BadDigest": "the content did not arrive as it was sent; run again",
    "XAmzContentSHA256Mismatch": "the content did not arrive as it was sent; run again",
    "IncompleteBody": "the content did not arrive whole; run again",
    "502": "storage is busy; run again later",
    "504": "storage is busy; run again later",
}
"""What may pass by itself, besides _BUSY."""
_UNNAMED = ("301", "400", "403")
"""Statuses of answers without a body: the code is in the answer to a GET."""


@contextmanager
def explained(action: str, uri: str) -> Generator[None]:
    """Turn what the file systems raise into one StorageError that says what to do."""
    try:
        yield
    except NeuclipError:
        raise
    except Exception as error:
        found = _of_s3(action, uri, error) or _of_system(action, uri, error)
        if found is None:
            raise
        raise found from error


def _of_s3(action: str, uri: str, error: Exception) -> StorageError | None:
    """Return the error of a code that S3 answered with, None for a code without a sentence of its own."""
    response = _response(error)
    code = str(response.get("Error", {}).get("Code", ""))
    if code in _UNNAMED and uri.startswith("s3://"):
        response = _ask_again(uri) or response
        code = str(response.get("Error", {}).get("Code", code))
    if code in _LATER:
        return TransientStorageError(f"cannot {action} {uri}: {_LATER[code]}")
    if code not in _SENTENCES:
        return None
    return StorageError(
        f"cannot {action} {uri}: {_SENTENCES[code].format(region=_region(response))}"
    )


def _response(error: BaseException | None) -> dict[str, Any]:
    """Return the answer of S3 that an exception came of."""
    while error is not None:
        if isinstance(error, botocore.exceptions.ClientError):
            return dict(error.response)
        error = error.__cause__ or error.__context__
    return {}


def _ask_again(uri: str) -> dict[str, Any]:
    """Ask by GET why a HEAD was refused; an answer to HEAD has no body that could say it."""
    files, path = filesystem(uri)
    bucket, key, _ = files.split_path(path)
    call, wanted = ("get_object", {"Key": key}) if key else ("list_objects_v2", {"MaxKeys": 1})
    try:
        answer = files.call_s3(call, Bucket=bucket, **wanted)
        if "Body" in answer:
            answer["Body"].close()
    except Exception as error:  # noqa: BLE001  # the first error stands unless S3 gives a reason now
        return _response(error)
    return {}


def _region(response: dict[str, Any]) -> str:
    """Return the region of the bucket where the answer tells it."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    return f" ({region})" if region else ""


def _of_system(action: str, uri: str, error: Exception) -> StorageError | None:
    """Return the error of what is no answer of S3's own; None for what is no failure of storage."""
    kind: type[StorageError] = StorageError
    match error:
        case FileNotFoundError():
            reason = "there is no such file or bucket"
        case botocore.exceptions.NoCredentialsError():
            reason = "no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        case PermissionError() if not is_local(uri):
            reason = "permission denied; check the AWS_* keys and bucket policy"
        case _ if isinstance(error, _UNREACHABLE):
            kind = TransientStorageError
            reason = f"no answer from {_endpoint()}; check the network and AWS_ENDPOINT_URL"
        case aiohttp.ClientError():
            kind, reason = TransientStorageError, f"the answer broke off: {error}"
        case OSError():
            is_busy = isinstance(error, TimeoutError) or error.errno in _BUSY
            kind = TransientStorageError if is_busy and not is_local(uri) else StorageError
            reason = sentence_of(error) or str(error)
        case botocore.exceptions.BotoCoreError() | ValueError() | NotImplementedError():
            reason = f"{error}; check the address"
        case _:
            return None
    return kind(f"cannot {action} {uri}: {reason}")


def _endpoint() -> str:
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named or "the default S3 endpoint"
