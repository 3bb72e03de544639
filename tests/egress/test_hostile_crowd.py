"""Oracle: five hundred pictures that are fetched without trouble when nobody disturbs; bench/guard.py has the times."""

import pytest

from tests.egress.crowd import among, good, hostile, serving, visit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_all_good_ones_come_through_among_hostile_ones(tmp_path):
    with serving() as url:
        statuses = visit(among(hostile()), url, tmp_path / "guard").statuses
    assert {path: statuses[path] for path in good()} == dict.fromkeys(good(), 200)
    assert {path: statuses[path] for path in hostile()} == dict.fromkeys(hostile(), 403)
    assert len(good()) == 500
    assert len(hostile()) == 50
