"""What a node is given by environment or file."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.system.harness import identities
from ztnode.cli import given_secrets
from ztnode.cli.app import run
from ztnode.cli.serve_command import refuse_contradictions, serve

WHO = next(identities())
OTHER = list(identities())[1]
LINE = WHO.build_text(include_secret=True)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in given_secrets.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", given_secrets.IDENTITY_VARIABLES)
def test_an_identity_by_either_name_leaves_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_secrets.identity(None) is None
    monkeypatch.setenv(name, f" {LINE}\n")
    assert given_secrets.identity(None) == WHO
    assert name not in os.environ


def test_an_identity_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity.secret"
    path.write_text(LINE + "\n")
    assert given_secrets.identity(path) == WHO
    monkeypatch.setenv(given_secrets.IDENTITY_FILE_VARIABLE, str(path))
    assert given_secrets.identity(None) == WHO


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "is no identity"),
        (WHO.build_text(), "is a public identity"),
        (f"{WHO.build_text()}:{OTHER.build_text(include_secret=True).rpartition(':')[2]}", "is damaged"),
        (f"89e92ceee5{LINE[10:]}", "89e92ceee5 is not the address of its key"),
        ("\0" * 5000, "is no line of text"),
    ],
)
def test_what_is_no_identity_is_one_line_without_the_secret(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "identity.secret"
    path.write_text(text)
    assert run(["serve", "--state", str(tmp_path / "st"), "--identity-secret", str(path)]) == 1
    said = capsys.readouterr().err
    assert complaint in said and str(path) in said and said.count("\n") == 1
    assert LINE.rpartition(":")[2] not in said


def test_two_different_identities_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTNODE_IDENTITY_SECRET", LINE)
    monkeypatch.setenv("ZEROTIER_IDENTITY_SECRET", OTHER.build_text(include_secret=True))
    with pytest.raises(ValueError, match="are different"):
        given_secrets.identity(None)


def test_the_stores_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(32))
    monkeypatch.setenv("ZTNODE_STORE_KEY", base64.b64encode(key).decode())
    assert given_secrets.store_key(None) == key and "ZTNODE_STORE_KEY" not in os.environ
    path = tmp_path / "key"
    path.write_text(key.hex() + "\n")
    assert given_secrets.store_key(path) == key
    for bad in ("", "short", "00" * 31, base64.b64encode(bytes(33)).decode()):
        path.write_text(bad)
        with pytest.raises(ValueError, match="32 bytes"):
            given_secrets.store_key(path)


def test_a_store_is_copied_encrypted_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, sealed, back, key = (str(tmp_path / name) for name in ("plain", "sealed", "back", "key"))
    Path(key).write_text("11" * 32)
    (tmp_path / "plain/networks.d").mkdir(parents=True)
    (tmp_path / "plain/networks.d/8056c2e21c000001.conf").write_bytes(b"\n")
    (tmp_path / "plain/identity.secret").write_text(LINE)
    assert run(["store", "copy", plain, sealed, "--to-key", key]) == 0
    assert LINE.encode() not in (tmp_path / "sealed/identity.secret").read_bytes()
    assert run(["store", "copy", sealed, back]) == 1
    assert "give its key" in capsys.readouterr().err
    assert run(["store", "copy", sealed, back, "--from-key", key]) == 0
    assert (tmp_path / "back/identity.secret").read_text() == LINE
    assert run(["store", "copy", plain, back]) == 1 and "not empty" in capsys.readouterr().err
    assert run(["store", "list", sealed, "--store-key", key]) == 0
    assert "networks.d/8056c2e21c000001.conf" in capsys.readouterr().out
    assert (
        run(["store", "list", str(tmp_path / "mistyped")]) == 1 and "has no state of a node" in capsys.readouterr().err
    )


def test_the_serve_commands_of_the_pages_on_stores_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store.key").write_text("00" * 32)
    docs = Path(__file__).parents[3] / "docs"
    seen = 0
    for name in ("STORES.md", "PRODUCTION.md"):
        for line in (docs / name).read_text().splitlines():
            command = line.partition("ztnode serve ")[2]
            if not command or not line.startswith(("ztnode serve", "ZTNODE_")):
                continue
            arguments = [
                str(tmp_path / "store.key") if word.startswith("/run/secrets") else word for word in command.split()
            ]
            with serve.make_context("ztnode serve", arguments) as ctx:
                refuse_contradictions(ctx)
            seen += 1
    assert seen == 6
