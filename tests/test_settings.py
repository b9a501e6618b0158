"""Settings: command line before environment before default; nonsense is refused by name."""

from pathlib import Path

import pytest

from tasks_lib.errors import SettingError
from tasks_lib.settings import SETTINGS, Settings

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def test_precedence() -> None:
    """A word on the command line wins over the environment, which wins over the default."""
    environ = {"FETCH_CACHE_DIR": "env", "FETCH_BUILD_DIR": "env", "FETCH_RETRIES": "7", "FETCH_MAX_ENTRIES": "5"}
    found = Settings.parse(variables={"cache": "word", "build": None, "offline": "1"}, environ=environ)
    assert (str(found.cache), str(found.build), str(found.fetchdefs)) == ("word", "env", "fetchdefs")
    assert (found.policy.retries, found.policy.network, found.limits.max_entries) == (7, "off", 5)


@pytest.mark.parametrize("text", ["-1", "many", "1e99", "nan"])
def test_nonsense_is_refused(text: str) -> None:
    """A value that is no number of zero or more is refused, with the setting's name."""
    with pytest.raises(SettingError, match="FETCH_BACKOFF_S"):
        Settings.parse(variables={}, environ={"FETCH_BACKOFF_S": text})


def test_every_setting_is_documented() -> None:
    """The README names every setting."""
    assert [one.environ for one in SETTINGS if f"`{one.environ}`" not in README] == []


def test_proxies_and_trust() -> None:
    """Proxies, CA bundle and netrc come from their usual variables; HTTP_PROXY, which CGI can forge, does not."""
    environ = {"https_proxy": "http://p:1", "HTTP_PROXY": "http://evil", "SSL_CERT_FILE": "/ca", "NETRC": "/n"}
    found = Settings.parse(variables={}, environ=environ).transport
    assert (dict(found.proxies), found.ca_bundle, found.netrc) == ({"https": "http://p:1"}, "/ca", "/n")
