"""One Consul for all tests here that want a real one and neither stop nor wipe it."""

from collections.abc import Iterator

import pytest

from tests.consul_server import ConsulServer


@pytest.fixture(scope="session")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    with ConsulServer(tmp_path_factory.mktemp("consul")) as server:
        yield server


@pytest.fixture(scope="session")
def consul_with_acls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    with ConsulServer(tmp_path_factory.mktemp("consul-acl"), acl=True) as server:
        yield server
