"""How plugins are found, and what is no plugin's."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from ztnode import plugins
from ztnode.plugins.url_scheme import url_scheme


def test_built_ins_need_no_metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a vendored copy, a zip application or a frozen program."""
    monkeypatch.setattr(plugins, "_installed", tuple)
    manager = plugins.load()
    assert plugins.call(manager, "ztnode_planet", source=None)
    assert plugins.call(manager, "ztnode_transport", name="udp") is not None
    assert plugins.call(manager, "ztnode_state_store", url="memory:") is not None


def test_metadata_of_an_older_version_may_name_the_built_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a directory of sources has it that was installed from before the built-ins were registered by name."""
    stale = importlib.metadata.EntryPoint("builtin-stores", "ztnode.plugins.stores", plugins.GROUP)
    monkeypatch.setattr(plugins, "_installed", lambda: [stale])
    assert len(plugins.load().get_plugins()) == len(plugins.BUILT_IN)


def test_plugins_of_others_are_found_however_they_are_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A look into directories spares nodes without plugins the reading of all metadata, and must see each of them."""
    (tmp_path / "ours").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "ours"), str(tmp_path / "missing")])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is PathFinder])

    def installed(name: str) -> bool:
        """Whether a distribution of that kind shows, beside one that offers something else."""
        for kind, group in (("other-1.dist-info", "console_scripts"), (name, plugins.GROUP)):
            folder = tmp_path / "ours" / kind
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Name: {kind[:6]}\n")
            (folder / "PKG-INFO").write_text(f"Name: {kind[:6]}\n")
            (folder / "entry_points.txt").write_text(f"[{group}]\nsome = ztnode.plugins.stores\n")
        found = {entry.name for entry in plugins._installed()}
        shutil.rmtree(tmp_path / "ours")
        return found == {"some"}

    assert list(plugins._installed()) == []
    assert installed("theirs-1.dist-info")
    sys.path[:1] = [tmp_path / "ours"]  # type: ignore[list-item]
    assert installed("theirs-1.dist-info")
    sys.path[:1] = [None, "no\0path", str(tmp_path / "ours")]  # type: ignore[list-item]
    assert list(plugins._installed()) == []
    del sys.path[:2]
    assert installed("theirs.egg-info")
    sys.path.insert(0, str(tmp_path / "ours/theirs.egg"))
    assert installed("theirs.egg/EGG-INFO")
    sys.path.pop(0)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("theirs-1.dist-info/METADATA", "Name: theirs")
        archive.writestr("theirs-1.dist-info/entry_points.txt", "[ztnode]\nsome = ztnode.plugins.stores\n")
    sys.path.append(str(tmp_path / "archive.zip"))
    assert [entry.name for entry in plugins._installed()] == ["some"]
    sys.path.pop()

    class Finder(importlib.metadata.DistributionFinder):
        """As programs have that are frozen or imported from elsewhere."""

        def find_spec(self, *_: object) -> None:
            return None

        def find_distributions(self, *_: object) -> list[importlib.metadata.Distribution]:
            return [importlib.metadata.Distribution.at(tmp_path / "far.dist-info")]

    (tmp_path / "far.dist-info").mkdir()
    (tmp_path / "far.dist-info/METADATA").write_text("Name: far\n")
    (tmp_path / "far.dist-info/entry_points.txt").write_text("[ztnode]\nfar = ztnode.plugins.stores\n")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert [entry.name for entry in plugins._installed()] == ["far"]


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
