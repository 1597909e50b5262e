"""Where an app's token comes from."""

from pathlib import Path

import pytest

from mesh.client.credential import named_file, read
from mesh.core.records import TOKEN_BYTES_MAX
from mesh.errors import ConfigError


def test_the_file_is_the_one_given_else_the_environments_else_none(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("0123456789abcdef\n")
    other.write_text("fedcba9876543210")
    environ = {"MESH_TOKEN_FILE": str(other)}
    assert [str(one), str(other), ""] == [named_file(one, environ), named_file(None, environ), named_file(None, {})]
    assert [b"0123456789abcdef", b"fedcba9876543210", b""] == [read(path) for path in (str(one), str(other), "")]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/none: 1 problem\n  - the token cannot be read: the token file"):
        named_file(tmp_path / "none", {})
    with pytest.raises(FileNotFoundError, match="No such file"):
        read(str(tmp_path / "none"))


def test_a_file_that_holds_more_than_a_token_is_named(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * TOKEN_BYTES_MAX + b"\n")
    assert TOKEN_BYTES_MAX == len(read(str(path)))
    path.write_bytes(b"x" * (TOKEN_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match=f"the token file {path}: it holds more than one token of 4096 bytes"):
        named_file(path, {})
