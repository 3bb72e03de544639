"""A real S3 server in a child process, and the environment that leads to it.

Import the fixtures in a conftest; a session has one server, each test its own bucket.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import boto3
import pytest
import s3fs

HOST = "127.0.0.1"
SECRET = "a-secret-that-no-message-may-show"
KEYS = {
    "AWS_ACCESS_KEY_ID": "access-key-of-the-tests",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
_START_S = 60
_END_S = 10


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


@contextmanager
def s3_server(host: str = HOST) -> Generator[str]:
    """Serve S3 from the memory of a child until the block ends; give its URL."""
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://{host}:{port}"
        _wait_for(url, child)
        yield url
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urlopen(f"{url}/moto-api/", timeout=1):
                return
        except (URLError, TimeoutError):
            if child.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="session")
def s3_url() -> Generator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def s3_environment(s3_url, monkeypatch) -> Generator[dict[str, str]]:
    """The AWS_* variables, set for this test and its children."""
    environment = {**KEYS, "AWS_ENDPOINT_URL": s3_url}
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield environment
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3_bucket(s3_environment) -> str:
    """A fresh bucket, as a URI."""
    return make_bucket(s3_environment)


def make_bucket(environment: dict[str, str]) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}"
