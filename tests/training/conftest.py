import pytest
from servers.s3 import s3_bucket, s3_environment, s3_url
from training.runs import make_config, make_packed, train

__all__ = ["s3_bucket", "s3_environment", "s3_url"]


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    return make_packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="session")
def whole_run(packed, tmp_path_factory):
    """A run that nothing disturbed."""
    return train(tmp_path_factory.mktemp("whole"), packed, make_config())
