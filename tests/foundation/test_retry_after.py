"""How long a server asks to be left alone. Oracle: seconds and dates by hand, and values that say nothing sensible."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from neuclip.foundation.retry_after import retry_after_s
from tests.servers.hostile import ABSURD_WAITS


def test_seconds_and_dates_are_read():
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert retry_after_s(" 7 ") == 7
    assert retry_after_s(format_datetime(later, usegmt=True)) == pytest.approx(90, abs=2)
    assert retry_after_s("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert retry_after_s(None) is None


@pytest.mark.parametrize("value", ABSURD_WAITS, ids=lambda value: repr(value[:40]))
def test_what_says_nothing_sensible_is_no_wait(value):
    assert not retry_after_s(value)
