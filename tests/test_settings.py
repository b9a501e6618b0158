"""Settings: command line, environment, pyproject.toml, default; invalid values are refused by name."""

import re
import sys
from pathlib import Path

import pytest

from tasks_lib.errors import SettingError
from tasks_lib.network import HostCredential
from tasks_lib.settings import SETTINGS, Settings, find_misspelt, load_project


def test_precedence() -> None:
    """The command line overrides the environment, which overrides the default."""
    environ = {"FETCH_CACHE_DIR": "env", "FETCH_BUILD_DIR": "env", "FETCH_RETRIES": "7", "FETCH_MAX_ENTRIES": "5"}
    found = Settings.parse(variables={"cache": "word", "build": None, "offline": "1"}, environ=environ)
    assert (str(found.cache), str(found.build), str(found.fetchdefs)) == ("word", "env", "fetchdefs")
    assert (found.policy.retries, found.policy.network, found.limits.max_entries) == (7, "off", 5)


def test_pyproject(tmp_path: Path) -> None:
    """A table of pyproject.toml comes after command line and environment, its keys with dashes or underscores."""
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.doit-fetch]\nretries = 1\njobs-per-host = 2\nmax_entries = 3\noffline = true\nbackoff=0.5\n")
    project = load_project(path).table
    found = Settings.parse(variables={"retries": "9"}, environ={"FETCH_BACKOFF_S": "7"}, project=project)
    assert (found.policy.retries, found.policy.backoff_s, found.policy.jobs_per_host) == (9, 7.0, 2)
    assert (found.limits.max_entries, found.policy.network) == (3, "off")
    assert load_project(tmp_path / "none.toml").table == {}


USER: dict[str, tuple[dict[str, str], str]] = {
    "XDG": ({"XDG_CACHE_HOME": "/x/", "HOME": "/h"}, "/x/doit-fetch"),
    "a relative XDG": ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/doit-fetch"),
    "home": ({"HOME": "/h/"}, "/h/.cache/doit-fetch"),
    "a home that is empty": ({"HOME": ""}, ""),
    "nothing": ({}, ""),
}


@pytest.mark.parametrize("case", USER)
def test_the_cache_of_a_user(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`user` is a directory of the XDG specification; without a home it is refused."""
    monkeypatch.setattr(sys, "platform", "linux")
    environ, expected = USER[case]
    for given in (environ | {"FETCH_CACHE_DIR": "user"}, environ | {"FETCH_PRIVATE_CACHE_DIR": "user"}):
        if expected:
            assert str(Settings.parse(variables={}, environ=given).cache) == expected
        else:
            with pytest.raises(SettingError, match="neither XDG_CACHE_HOME nor HOME is set"):
                Settings.parse(variables={}, environ=given)
    project = {"cache": "./user", "build": "user"}
    found = Settings.parse(variables={}, environ=environ, project=project)
    assert (str(found.cache), str(found.build)) == ("user", "user")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("retrys = 1", "unknown key 'retrys'\ndid you mean retries"),
        ("retries = 'many'", r"invalid value 'many' for \[tool.doit-fetch\] retries: expected a non-negative number"),
        ("retries = [1]", "expected a non-negative number"),
        ("retries = 1.5", "'1.5' for .* retries: expected a non-negative number"),
        ("retries = inf", "'inf' for .* retries: expected a non-negative number"),
        ("backoff = 1" + "0" * 400, "expected a non-negative number"),
        ("retries = ", "pyproject.toml:2:[0-9]+: invalid TOML: Invalid value$"),
        (
            "retries = 1\n[tool.other\nx = 1",
            r"pyproject.toml:3:[0-9]+: invalid TOML: Expected ']' at the end of a table",
        ),
        ("retries = 'a", "pyproject.toml(:2:13)?: invalid TOML: "),
        ("retries = 1\nretries = 2", "pyproject.toml:3:[0-9]+: invalid TOML: Cannot overwrite a value$"),
        ("cache = ['a']", r"invalid value \"\['a'\]\" for .* cache: expected a string"),
        ("cache = false", "invalid value 'False' for .* cache: expected a string"),
        ("git-protocols = ['https']", "git_protocols: expected a string\nwrite it as"),
        ('build = "a\\u0000"', "expected a string"),
    ],
)
def test_pyproject_is_judged(text: str, printed: str, tmp_path: Path) -> None:
    """A key that is not known, a value that cannot be used and broken TOML are refused with a hint."""
    (tmp_path / "pyproject.toml").write_text(f"[tool.doit-fetch]\n{text}\n")
    with pytest.raises(SettingError, match=printed):
        Settings.parse(variables={}, environ={}, project=load_project(tmp_path / "pyproject.toml").table)


AUTH = 'header = "Private-Token"\nenv = "MY_TOKEN"'


def credentials(host: str, text: str, directory: Path) -> tuple[HostCredential, ...]:
    (directory / "pyproject.toml").write_text(f"[tool.doit-fetch.auth{host}]\n{text}\n", "utf-8")
    table = load_project(directory / "pyproject.toml").table
    return Settings.parse(variables={}, environ={}, project=table).transport.credentials


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("gitlab.example", ("gitlab.example", 0)),
        ("GitLab.example:8443", ("gitlab.example", 8443)),
        ("b\u00fccher.example", ("xn--bcher-kva.example", 0)),
        ("[::1]", ("::1", 0)),
        ("[::1]:443", ("::1", 443)),
    ],
)
def test_credentials(host: str, expected: tuple[str, int], tmp_path: Path) -> None:
    """A credential names a host with or without a port, a header and a variable."""
    assert credentials(f'."{host}"', AUTH, tmp_path) == (HostCredential(*expected, "Private-Token", "MY_TOKEN"),)


@pytest.mark.parametrize(
    ("host", "text", "printed"),
    [
        ('."https://h"', AUTH, 'auth."https://h"]: expected HOST or HOST:PORT'),
        ('."h:99999"', AUTH, "expected HOST or HOST:PORT"),
        ('."h"', 'header = "A"', "expected exactly the keys `header` and `env`"),
        ('."h"', f'{AUTH}\ntoken = "S3CRET"', "expected exactly the keys"),
        (".h.example", AUTH, 'auth."h"]: expected exactly the keys'),
        ('."h"', 'header = "A"\nenv = "S3CRET-x"', "`env` is not the name of an environment variable"),
        ('."h"', 'header = "A: S3CRET"\nenv = "A"', "`header` is not the name of a header that may be set"),
        ('."h"', 'header = "Host"\nenv = "A"', "`header` is not the name of a header that may be set"),
        ('."h"', 'header = 1\nenv = "A"', "`header` is not the name"),
        ("", 'h = "S3CRET"', "expected exactly the keys"),
    ],
)
def test_credentials_are_judged(host: str, text: str, printed: str, tmp_path: Path) -> None:
    """A mistake in a credential is reported with its host, never with a value, which may be a misplaced secret."""
    with pytest.raises(SettingError) as caught:
        credentials(host, text, tmp_path)
    assert printed in str(caught.value)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ['[tool."doit-fetch"]\njobs = 3', "[tool]\ndoit-fetch = {jobs = 3}", "[ tool . doit-fetch ]\njobs = 3"]
)
def test_pyproject_in_any_spelling(text: str, tmp_path: Path) -> None:
    """TOML has several ways to write one table."""
    (tmp_path / "pyproject.toml").write_text(text)
    assert load_project(tmp_path / "pyproject.toml").table == {"jobs": 3}


MISSPELT = [
    "tool.doit_fetch", "tool.doitfetch", "tool.Doit-Fetch", "tool.doit.fetch", "tool.do-it-fetch", "tool.doit-fecth",
    "doit-fetch", "tools.doit-fetch", "tool.doit_fetch.x",
]  # fmt: skip


@pytest.mark.parametrize("name", MISSPELT)
def test_misspelt_table(name: str, tmp_path: Path) -> None:
    """A table whose name is similar to ours is reported, since it has no effect; other tables are not."""
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[{name}]\njobs = 3\n")
    name = name.removesuffix(".x")
    assert load_project(path) == ({}, [f"{path}: [{name}] is not read; did you mean [tool.doit-fetch]?"])
    path.write_text("[tool.doit-fetch]\njobs = 3\n[tool.doit]\nx = 1\n[tool.fetch]\n[project]\nname = 'doit-fetch'\n")
    assert load_project(path) == ({"jobs": 3}, [])


def test_unreadable_pyproject(tmp_path: Path) -> None:
    """A file that is not text is refused, with its position."""
    (tmp_path / "pyproject.toml").write_bytes(b"[tool.doit-fetch]\nx = '\xff'\n")
    with pytest.raises(SettingError, match="not UTF-8 at byte 23"):
        load_project(tmp_path / "pyproject.toml")
    with pytest.raises(SettingError, match=re.escape(f"{tmp_path}: Is a directory")):
        load_project(tmp_path)


def test_a_directory_is_one_that_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that cannot be a directory is rejected with the name of its setting; `~/` is the user's home."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    for text, printed in (
        ("loop", "invalid value 'loop' for cache: Too many levels of symbolic links\ncorrect the path"),
        ("x" * 300, "for cache: File name too long"),
        ("gone", "invalid value 'gone' for cache: dangling symlink"),
    ):
        with pytest.raises(SettingError, match=printed):
            Settings.parse(variables={"cache": text}, environ={})
    (tmp_path / "build").symlink_to("nowhere")
    with pytest.raises(SettingError, match=r"^invalid value 'build' for FETCH_BUILD_DIR: dangling symlink"):
        Settings.parse(variables={}, environ={})
    project, environ = {"fetchdefs": "~/d"}, {"HOME": "/home/ann"}
    found = Settings.parse(variables={"build": "~ann", "cache": "~/c"}, environ=environ, project=project)
    assert (found.cache, found.build, found.fetchdefs) == (Path("/home/ann/c"), Path("~ann"), Path("/home/ann/d"))


def test_a_word_is_one_of_some() -> None:
    """An invalid choice is reported with the name under which it was given."""
    for variables, environ, project, name in (
        ({"link_mode": "soft"}, {}, {}, "link_mode"),
        ({}, {"FETCH_LINK_MODE": "soft"}, {}, "FETCH_LINK_MODE"),
        ({}, {}, {"link-mode": "soft"}, r"\[tool.doit-fetch\] link_mode"),
    ):
        with pytest.raises(
            SettingError, match=f"^invalid value 'soft' for {name}: expected one of auto, reflink, copy, hardlink"
        ):
            Settings.parse(variables=variables, environ=environ, project=project)


def test_networks() -> None:
    """Networks are lists of CIDR words; `none` denies nothing."""
    found = Settings.parse(variables={}, environ={"FETCH_DENY_NETWORKS": "10.0.0.0/8, fc00::/7"})
    assert found.transport.denied == ("10.0.0.0/8", "fc00::/7")
    assert Settings.parse(variables={"deny_networks": "none"}, environ={}).transport.denied == ()
    with pytest.raises(SettingError, match=r"'10\.0\.0\.1/8' for FETCH_DENY_NETWORKS: expected a network"):
        Settings.parse(variables={}, environ={"FETCH_DENY_NETWORKS": "10.0.0.1/8"})


@pytest.mark.parametrize("name", ["CONNECT", "STALL"])
def test_no_time_is_refused(name: str) -> None:
    """A timeout of zero is rejected; a total timeout of zero means one derived from the size."""
    with pytest.raises(SettingError, match=f"invalid value 0 for FETCH_{name}_TIMEOUT_S: must be greater than zero"):
        Settings.parse(variables={}, environ={f"FETCH_{name}_TIMEOUT_S": "0"})
    assert Settings.parse(variables={}, environ={"FETCH_TOTAL_TIMEOUT_S": "0"}).transport.total_s(1) > 0


@pytest.mark.parametrize("text", ["-1", "many", "1e99", "nan"])
def test_nonsense_is_refused(text: str) -> None:
    """A value other than a non-negative number is rejected, with the setting's name."""
    with pytest.raises(SettingError, match="FETCH_BACKOFF_S"):
        Settings.parse(variables={}, environ={"FETCH_BACKOFF_S": text})


@pytest.mark.parametrize("text", ["-1", "+1", "1.5", " 1", "1_0", "0x10", "tomorrow", "\u0661", "1" * 19])
def test_a_source_date_that_is_no_time_is_refused(text: str) -> None:
    """SOURCE_DATE_EPOCH is digits, or refused by name; empty is not set."""
    with pytest.raises(SettingError, match="SOURCE_DATE_EPOCH"):
        Settings.parse(variables={}, environ={"SOURCE_DATE_EPOCH": text})
    assert Settings.parse(variables={}, environ={"SOURCE_DATE_EPOCH": ""}).source_date_epoch is None
    assert Settings.parse(variables={}, environ={"SOURCE_DATE_EPOCH": "007"}).source_date_epoch == 7


def test_proxies_and_trust() -> None:
    """Proxies, CA bundle and netrc come from their usual variables; HTTP_PROXY under CGI, which forges it, does not."""
    environ = {"https_proxy": "http://p:1", "HTTP_PROXY": "http://q", "SSL_CERT_FILE": "/ca", "NETRC": "/n"}
    found = Settings.parse(variables={}, environ=environ).transport
    assert dict(found.proxies) == {"http": "http://q", "https": "http://p:1"}
    environ["REQUEST_METHOD"] = "GET"
    found = Settings.parse(variables={}, environ=environ).transport
    assert (dict(found.proxies), found.ca_bundle, found.netrc) == ({"https": "http://p:1"}, "/ca", "/n")


def test_what_is_nearly_a_setting_is_reported() -> None:
    """A misspelt setting is reported, since it has no effect; names of other programs are not."""
    environ = ["FETCH_JOBZ", "FETCH_CACHE", "FETCH_RETRIES", "FETCH_TOKEN", "FETCH_HOST", "JOBS", "FETCHED"]
    assert find_misspelt(["offlin", "job", "jobs", "target"], environ) == [
        "ignoring unknown setting FETCH_JOBZ; did you mean FETCH_JOBS?",
        "ignoring unknown setting FETCH_CACHE; did you mean FETCH_CACHE_DIR?",
        "ignoring unknown setting offlin; did you mean offline?",
    ]
    assert find_misspelt([], [one.environ for one in SETTINGS]) == []


def test_variables_to_pass() -> None:
    """Names are a list; settings know digests of their values only, and no setting of ours is passed."""
    found = Settings.parse(variables={"pass_env": "CFLAGS, CC"}, environ={"CC": "s3cret"})
    assert found.pass_env == ("CC", "CFLAGS")
    assert dict(found.passed).keys() == {"CC", "CFLAGS"} and "s3cret" not in repr(found)
    assert found.passed != Settings.parse(variables={"pass_env": "CFLAGS, CC"}, environ={"CC": "other"}).passed
    for text, name in (("A,B=c", "B=c"), ("FETCH_RETRIES", "FETCH_RETRIES"), ("FETCHDEFS_DIR", "FETCHDEFS_DIR")):
        with pytest.raises(SettingError, match=f"^invalid value '{name}' for FETCH_PASS_ENV"):
            Settings.parse(variables={"pass_env": text}, environ={})
