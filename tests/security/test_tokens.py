"""Files of tokens: what is read, what is refused, and whom a token names."""

import os
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.security.tokens import Bearer, Tokens, digest_of, read_tokens

WEB, JOBS = Bearer("web", ("apps",)), Bearer("jobs", ())
TOKEN = "0123456789abcdef"


def put(path: Path, text: str = TOKEN + "\n", mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_token_names_whom_it_was_made_for_and_no_other_does(tmp_path: Path) -> None:
    web, jobs = put(tmp_path / "web"), put(tmp_path / "jobs", "fedcba9876543210", 0o640)
    tokens = read_tokens([("web", web, WEB), ("jobs", jobs, JOBS)])
    assert [WEB, JOBS] == [tokens.bearer(digest_of(token)) for token in (TOKEN.encode(), b"fedcba9876543210")]
    wrong = (b"", b"0123", TOKEN.encode() + b"\n", b"x" * 16)
    assert [None] * 5 == [*(tokens.bearer(digest_of(token)) for token in wrong), tokens.bearer(TOKEN.encode())]
    assert None is Tokens().bearer(digest_of(TOKEN.encode()))
    assert TOKEN not in repr(tokens)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o620, 0o650, 0o700])
def test_a_file_that_is_open_to_others_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"is open to others .mode {mode:04o}.: chmod 600, or 640"):
        read_tokens([("web", put(tmp_path / "web", mode=mode), WEB)])


@pytest.mark.parametrize("text", ["short", "", "two words in one file", "naïve-0123456789", "x" * 4097])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="must hold one token of 16 to 4096 printable characters"):
        read_tokens([("web", put(tmp_path / "web", text), WEB)])


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    good = put(tmp_path / "good")
    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "pipe", 0o600)
    paths = [good, put(tmp_path / "copy"), str(tmp_path / "none"), str(tmp_path / "link"), str(tmp_path / "pipe")]
    with pytest.raises(ConfigError) as caught:
        read_tokens([(Path(path).name, path, WEB) for path in paths])
    assert [
        f"token 'copy': {tmp_path}/copy holds the token of 'good' too: each needs its own",
        f"token 'none': {tmp_path}/none cannot be read: No such file or directory",
        f"token 'link': {tmp_path}/link cannot be read: Too many levels of symbolic links",
        f"token 'pipe': {tmp_path}/pipe is no file",
    ] == list(caught.value.problems)


def test_anothers_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "web")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    if os.stat(path).st_uid == 0:
        os.chown(path, 1234, -1)
    with pytest.raises(ConfigError, match="belongs to user"):
        read_tokens([("web", path, WEB)])
