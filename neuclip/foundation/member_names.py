"""How the name of a member of a WebDataset tar says which sample it belongs to."""


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """Return the key of a member, and its suffix in lower case; None for a member that belongs to no sample.

    The key ends at the first dot of the last part of the name; dots of folders do not count. Source:
    webdataset.tariterators.base_plus_ext, see tests/foundation/test_member_names.py. Hidden files belong to no sample
    here; webdataset takes some of them for members of a sample that is called like their folder.
    """
    start = name.rfind("/") + 1
    place = name.find(".", start)
    return (name[:place], name[place + 1 :].lower()) if place > start else None
