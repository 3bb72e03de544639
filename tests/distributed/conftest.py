import pytest
from oracles.rank_pool import shared_pool


@pytest.fixture(scope="session")
def ranks():
    return shared_pool()
