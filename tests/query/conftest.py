"""One small journey for all tests that only ask."""

from types import SimpleNamespace

import pytest
from query.journeys import do_stages, make_pairs, make_recipe

from neuclip.journey import identify


@pytest.fixture(scope="session")
def asked(tmp_path_factory):
    recipe, fields = make_recipe(tmp_path_factory.mktemp("asked"))
    pairs = make_pairs()
    do_stages(recipe, pairs)
    uris = {stage: identity.uri for stage, identity in identify(recipe).items()}
    return SimpleNamespace(recipe=recipe, fields=fields, pairs=pairs, uris=uris)
