import pytest

from neuclip.curate.balance import read_entries
from neuclip.takedown.lists import read_wanted

MARKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("mark", MARKS)
def test_an_entry_ends_at_a_newline_and_nowhere_else(tmp_path, mark):
    """An address cut in two would leave the picture where it is."""
    path = tmp_path / "urls.txt"
    url = f"http://a.example/one{mark}two.jpg"
    path.write_bytes(f"\ufeff{url}\r\nhttp://a.example/b.jpg\r\n\r\n# note\n".encode())
    wanted = read_wanted(uids=None, urls=str(path), hosts=None)
    assert wanted.urls == [url, "http://a.example/b.jpg"]


@pytest.mark.parametrize("mark", MARKS)
def test_a_phrase_of_balancing_ends_at_a_newline(tmp_path, mark):
    path = tmp_path / "entries.txt"
    path.write_bytes(f"\ufeffred{mark}dog\r\ncat\r\n".encode())
    assert read_entries(str(path)) == ["cat", "red dog"]
