"""How plugins are found, and what is no plugin's."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from ztnode import plugins
from ztnode.plugins.url_scheme import url_scheme


def test_built_ins_need_no_metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a vendored copy, a zip application or a frozen program."""
    monkeypatch.setattr(plugins, "entry_points", lambda **_: importlib.metadata.EntryPoints())
    manager = plugins.load()
    assert plugins.call(manager, "ztnode_planet", source=None)
    assert plugins.call(manager, "ztnode_transport", name="udp") is not None
    assert plugins.call(manager, "ztnode_state_store", url="memory:") is not None


def test_metadata_of_an_older_version_may_name_the_built_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a directory of sources has it that was installed from before the built-ins were registered by name."""
    stale = importlib.metadata.EntryPoint("builtin-stores", "ztnode.plugins.stores", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda **_: importlib.metadata.EntryPoints([stale]))
    assert len(plugins.load().get_plugins()) == len(plugins.BUILT_IN)


@pytest.mark.parametrize(
    "url", ["redis://host/0", "sqlte:/var/state.db", "memory", "s3:bucket/x", "k8s-secret:a", "postgresql+x:"]
)
def test_what_looks_like_a_url_is_no_directory(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manager = plugins.load()
    if url == "memory":  # without its colon it is a directory, and may be one
        assert plugins.call(manager, "ztnode_state_store", url=url) is not None
        return
    assert plugins.call(manager, "ztnode_state_store", url=url) is None
    assert plugins.call(manager, "ztnode_planet", source=url) is None
    assert not list(tmp_path.iterdir())
    assert plugins.call(manager, "ztnode_state_store", url=f"./{url}") is not None


@pytest.mark.parametrize(
    ("source", "scheme"),
    [
        ("vault:a", "vault"),
        ("HTTPS://a", "HTTPS"),
        ("c:\\state", None),
        ("/a:b", None),
        ("./a:b", None),
        ("a b:c", None),
        ("", None),
    ],
)
def test_schemes(source: str, scheme: str | None) -> None:
    assert url_scheme(source) == scheme
