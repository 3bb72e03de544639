"""Whether a folder can be where the recipe wants it, told before anything is done there."""

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.os_errors import sentence_of
from neuclip.storage.uris import is_local, local_part


def require_folder(uri: str, field: str) -> None:
    """Refuse a local folder whose path, or a part of it, is a file; one that is not there yet may be made.

    Raises: ConfigError: naming the file.
    """
    if not is_local(uri):
        return
    path = local_part(uri).absolute()
    try:
        is_there = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:
        raise ConfigError(f"{field} {uri[:200]}: {sentence_of(error)}") from error
    if not is_there.is_dir():
        raise ConfigError(
            f"{field} {uri}: {is_there} is a file, expected a folder; move the file away, or set {field} to another "
            "folder"
        )
