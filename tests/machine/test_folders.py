"""Where downloads go for users of containers, who may have neither a name nor a home."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.datasets_torchvision import cache_folder
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.folders import user_cache


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user whom the machine does not know; returns the folder for temporary files."""

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_a_user_with_a_home_has_the_cache_there(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert user_cache() == Path("/elsewhere")


def test_a_user_without_one_has_it_among_temporary_files(nameless):
    assert user_cache() == nameless / f"cache-of-user-{os.getuid()}"
    assert cache_folder(None) == user_cache() / "dmcp-deploy"
    with pytest.raises(DmcpError, match="neither a folder nor a data set '~/pictures'"):
        open_data("~/pictures")


def test_a_folder_there_that_is_not_ones_own_is_not_taken(nameless):
    (nameless / f"cache-of-user-{os.getuid()}").symlink_to("/")
    with pytest.raises(DmcpError, match="set XDG_CACHE_HOME to a folder of yours"):
        user_cache()


def test_data_that_cannot_be_fetched_names_the_folder_and_the_remedy(nameless, monkeypatch):
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.MNIST", unreachable)
    with pytest.raises(DmcpError, match=r"could not fetch MNIST into .*cache-of-user") as caught:
        open_data("torchvision:MNIST")
    assert "set XDG_CACHE_HOME to a folder that has them" in str(caught.value)
