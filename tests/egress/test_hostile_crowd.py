"""Oracle: five hundred pictures that are fetched without trouble when nobody disturbs; bench/guard.py has the times."""

import pytest

from tests.egress.crowd import good, hostile, paths, serving, visit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_all_good_ones_come_through_among_hostile_ones(tmp_path):
    with serving() as url:
        statuses = visit(paths(with_hostile=True), url, tmp_path / "guard").statuses
    assert {path: statuses[path] for path in good()} == dict.fromkeys(good(), 200)
    may_be_read = ("lines.bmp", "line-ends.bmp")
    refused = {path for path in hostile() if not path.endswith(may_be_read)}
    assert {path: statuses[path] for path in refused} == dict.fromkeys(refused, 403)
    assert len(good()) == 500
    assert len(hostile()) == 50
