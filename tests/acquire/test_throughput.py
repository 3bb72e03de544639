"""Oracle: counts and a clock given by hand."""

from collections import Counter

import pytest

from neuclip.acquire import throughput


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    return now


def test_rate_time_left_share_and_top_reasons(clock):
    told = throughput.Throughput()
    assert told.say(0, Counter(), 1000) == ""
    assert told.say(10, Counter(), 990) == "100% fetched"
    clock[0] += 10
    dropped = Counter({"http_404": 30, "dns": 20, "timeout": 9, "tls": 1})
    words = "20 rows/s, 40 s left, 71% fetched, 30 http_404, 20 dns, 9 timeout"
    assert told.say(150, dropped, 790) == words


def test_the_last_minute_counts(clock):
    told = throughput.Throughput()
    told.say(1, Counter(), 10_000)
    clock[0] += 100
    told.say(1001, Counter(), 9_000)
    clock[0] += 10
    assert told.say(1021, Counter(), 7_200) == "2 rows/s, 60 min left, 100% fetched"
    assert told.say(1021, Counter(), 0) == "2 rows/s, 100% fetched"
