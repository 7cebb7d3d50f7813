"""Fixtures: a server that speaks S3, on loopback, and stores of every kind."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Its address."""
    server = pytest.importorskip("moto.server", reason="needs moto[s3], flask and flask-cors")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that lead to the server; they are set."""
    pytest.importorskip("s3fs")
    variables = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def new_s3_client(s3_environment: dict[str, str]) -> Iterator[None]:
    """A client keeps the credentials and the address that it began with: this test has one of its own."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3_bucket(s3_environment: dict[str, str]) -> str:
    """The URL of a new bucket."""
    import s3fs

    name = f"bucket-{uuid4().hex[:12]}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return f"s3://{name}"


_STORES: dict[str, Callable[[pytest.FixtureRequest, Path], str]] = {
    "path": lambda request, path: str(path / "a store"),
    "file": lambda request, path: (path / "a store").as_uri(),
    "memory": lambda request, path: f"memory://{uuid4().hex}/a store",
    "s3": lambda request, path: f"{request.getfixturevalue('s3_bucket')}/a store",
}


@pytest.fixture(params=_STORES)
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    return _STORES[request.param](request, tmp_path)
