"""Known advisories in the format of OSV: `ECOSYSTEM/all.zip` below a directory or a URL, as OSV publishes them.

Source: https://ossf.github.io/osv-schema/ ; https://google.github.io/osv.dev/data/ , "Data dumps".
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import quote

import msgspec

from tasks_lib import archive
from tasks_lib.archive.entries import Entry
from tasks_lib.context import Context
from tasks_lib.definitions import Debian, DebianSource, Fetch, Git, StaticUrl
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError, OfflineError, SettingError, escape_text
from tasks_lib.formats import UNCHANGED
from tasks_lib.limits import Limits
from tasks_lib.pins.pages import describe_failure
from tasks_lib.pins.purl import Purl, find_purl, parse_purl
from tasks_lib.pins.versions import Key, find_version, version_key
from tasks_lib.progress import Progress

#: Directories of ecosystems by the type of package URL. Source: OSV schema, "Defined ecosystems".
_ECOSYSTEMS: Final = {
    "cargo": "crates.io", "composer": "Packagist", "cran": "CRAN", "deb": "Debian", "gem": "RubyGems", "golang": "Go",
    "hackage": "Hackage", "hex": "Hex", "maven": "Maven", "npm": "npm", "nuget": "NuGet", "pub": "Pub", "pypi": "PyPI",
    "swift": "SwiftURL",
}  # fmt: skip
#: Directories with advisories about commits.
_OF_COMMITS: Final = ("GIT", "OSS-Fuzz")
#: Bytes of one archive and of one advisory.
_MAX_ARCHIVE: Final = 4 << 30
_MAX_ADVISORY: Final = 16 << 20
_LIMITS: Final = Limits(max_member_bytes=_MAX_ADVISORY)


class Advisory(NamedTuple):
    """An advisory about a definition; `fixed` is the next version without the fault, "" if unknown."""

    identity: str
    summary: str
    fixed: str = ""


class AdvisoryVerdict(NamedTuple):
    """The advisories about a definition, and why others may be missing ("" if nothing is known to be missing)."""

    advisories: tuple[Advisory, ...]
    not_covered: str = ""


class _Package(msgspec.Struct):
    ecosystem: str = ""
    name: str = ""
    purl: str = ""


class _RangeEvent(msgspec.Struct):
    introduced: str = ""
    fixed: str = ""
    last_affected: str = ""
    limit: str = ""


class _Range(msgspec.Struct):
    type: str = ""
    repo: str = ""
    events: list[_RangeEvent] = []  # msgspec copies it


class _Affected(msgspec.Struct):
    package: _Package | None = None
    ranges: list[_Range] | None = None
    versions: list[str] | None = None


class _AdvisoryRecord(msgspec.Struct):
    id: str
    summary: str = ""
    withdrawn: str | None = None
    affected: list[_Affected] | None = None


class _Subject(NamedTuple):
    """A definition as advisories name it; `repository` is "" without one, `commit` is "" for a file."""

    name: str
    purl: Purl | None
    version: str
    repository: str
    commit: str


def find_advisories(
    context: Context, fetches: Iterable[Fetch], place: str, progress: Progress
) -> dict[str, AdvisoryVerdict]:
    """Return the advisories about each definition, by its name.

    `place` is the directory or http(s) URL that holds `ECOSYSTEM/all.zip`.

    Raises:
        SettingError: the directory does not exist.
        ArchiveError: an archive is damaged.
        CacheUnavailableError, CancelledError: as in every step.
    """
    subjects = [_describe(fetch) for fetch in fetches]
    source = _Dump(context, place, progress)
    wanted: defaultdict[str, list[_Subject]] = defaultdict(list)
    for subject in subjects:
        for ecosystem in source.list_ecosystems(subject):
            wanted[ecosystem].append(subject)
    notes = {one.name: _AdvisoryNotes({}, set(), set()) for one in subjects}
    for ecosystem, group in wanted.items():
        for record in source.read(ecosystem):
            for subject in group:
                notes[subject.name].add(record, subject)
        if ecosystem in source.found:
            for subject in group:
                notes[subject.name].read.add(ecosystem)
    return {one.name: notes[one.name].verdict(one, source.list_ecosystems(one)) for one in subjects}


class _AdvisoryNotes(NamedTuple):
    """What was found about one definition: advisories, those that are unclear, and the ecosystems that were read."""

    found: dict[str, Advisory]
    unclear: set[str]
    read: set[str]

    def add(self, record: _AdvisoryRecord, subject: _Subject) -> None:
        advisory = _judge(record, subject)
        if advisory is not None:
            self.found[advisory.identity] = advisory
        elif _is_unclear(record, subject):
            self.unclear.add(record.id)

    def verdict(self, subject: _Subject, ecosystems: list[str]) -> AdvisoryVerdict:
        reason = _explain(subject, ecosystems, self.read, sorted(self.unclear))
        return AdvisoryVerdict(tuple(sorted(self.found.values())), reason)


def _explain(subject: _Subject, ecosystems: list[str], read: set[str], unclear: list[str]) -> str:
    """Return why advisories about a definition may be missing, "" if nothing is known to be missing."""
    if subject.purl is None and not subject.commit:
        return "no package URL; add `fetch.purl`"
    kind = subject.purl.kind if subject.purl is not None else ""
    if kind not in _ECOSYSTEMS and not subject.repository and not subject.commit:
        return f"OSV has no ecosystem for packages of type {escape_text(kind)}"
    if kind == "deb" and subject.purl is not None and "arch=source" not in subject.purl.qualifiers:
        return "advisories of Debian name source packages; add `fetch.purl` with arch=source"
    if not read.intersection(ecosystems):
        return f"{escape_text(ecosystems[0])}/all.zip is missing"
    if unclear:
        what = "the commit" if subject.commit else "the version"
        return f"the history is needed to compare {what} with {escape_text(', '.join(unclear[:5]))}"
    return "" if subject.version or subject.commit else "no version"


def _describe(fetch: Fetch) -> _Subject:
    purl, source = find_purl(fetch), fetch.source
    if isinstance(source, StaticUrl | DebianSource):
        version = (purl.version if purl else "") or find_version(source.url) or find_version(fetch.name)
        commit, repository = "", ""
    elif isinstance(source, Debian):
        version, commit, repository = "", "", ""
    else:
        # the version of a commit is in its names, if anywhere
        own = purl.version if purl is not None and purl.version != source.revision else ""
        version = own or find_version(source.artifact_name) or find_version(fetch.name)
        commit, repository = source.revision, _normalize_repository(source.repo) if isinstance(source, Git) else ""
    if purl is not None and purl.kind == "github":
        repository = repository or f"github.com/{purl.namespace}/{purl.name}"
    return _Subject(fetch.name, purl, version, repository, commit)


def _normalize_repository(url: str) -> str:
    place = url.partition("://")[2] or url.replace(":", "/", 1)
    return place.rpartition("@")[2].rstrip("/").removesuffix(".git").lower()


class _Dump:
    """The archives below a directory or a URL."""

    def __init__(self, context: Context, place: str, progress: Progress) -> None:
        self._context, self._place, self._progress = context, place, progress
        self._is_remote = place.lower().startswith(("http://", "https://"))
        self._all: list[str] = []
        self.found: set[str] = set()  # ecosystems whose archive was read
        if not self._is_remote:
            if not Path(place).is_dir():
                raise SettingError(f"--osv: {escape_text(place)} is not a directory", hint="give a directory or a URL")
            self._all = sorted(path.parent.name for path in Path(place).glob("*/all.zip"))

    def list_ecosystems(self, subject: _Subject) -> list[str]:
        """Return the directories that may have advisories about a definition."""
        own = _ECOSYSTEMS.get(subject.purl.kind, "") if subject.purl is not None else ""
        found = [own] if own else []
        if subject.repository or subject.commit:
            found += _OF_COMMITS
        if not own and (subject.purl is not None or subject.commit):
            found += self._all  # any of them may name the package or the commit
        return list(dict.fromkeys(found))

    def read(self, ecosystem: str) -> Iterator[_AdvisoryRecord]:
        """Yield the advisories of an ecosystem; none if it has no archive."""
        with self._open(ecosystem) as file:
            if file is not None:
                self.found.add(ecosystem)
                yield from _read_records(file, ecosystem, self._progress)

    @contextlib.contextmanager
    def _open(self, ecosystem: str) -> Iterator[BinaryIO | None]:
        """Yield the archive of an ecosystem, None if there is none."""
        if not self._is_remote:
            path = Path(self._place, ecosystem, "all.zip")
            if not path.is_file():
                yield None
                return
            with path.open("rb") as file:
                yield file
            return
        url = f"{self._place.rstrip('/')}/{quote(ecosystem)}/all.zip"
        try:
            request = UnverifiedRequest(name=f"advisories for {ecosystem}", urls=(url,), limit=_MAX_ARCHIVE)
            integrity = self._context.unverified.obtain(request, self._progress)
        except (AllSourcesFailedError, OfflineError) as error:
            self._progress.warn(describe_failure(error))
            yield None
            return
        with self._context.cache.open(integrity) as blob:
            yield blob


def _read_records(file: BinaryIO, ecosystem: str, progress: Progress) -> Iterator[_AdvisoryRecord]:
    """Yield the advisories of an archive that are not withdrawn.

    Raises:
        ArchiveError: it is damaged.
    """
    decoder = msgspec.json.Decoder(_AdvisoryRecord)
    records: list[_AdvisoryRecord] = []
    broken = 0

    def add(entry: Entry) -> None:
        nonlocal broken
        if entry.kind != "file" or not entry.path.endswith(b".json"):
            return
        try:
            record = decoder.decode(b"".join(bytes(chunk) for chunk in entry.chunks))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            broken += 1
            return
        if not record.withdrawn:
            records.append(record)

    archive.read(
        file,
        name=f"{ecosystem}/all.zip",
        format="zip",
        reshape=UNCHANGED,
        limits=_LIMITS,
        sink=add,
        check=progress.check,
    )
    if broken:
        progress.warn(f"{escape_text(ecosystem)}/all.zip: {broken} advisories are not understood")
    yield from records


def _judge(record: _AdvisoryRecord, subject: _Subject) -> Advisory | None:
    """Return the advisory if it is about this version or commit."""
    for affected in record.affected or ():
        fixed = _judge_package(affected, subject)
        if fixed is None:
            fixed = _judge_commit(affected, subject)
        if fixed is not None:
            return Advisory(escape_text(record.id[:100]), escape_text(record.summary[:200]), escape_text(fixed[:100]))
    return None


def _judge_package(affected: _Affected, subject: _Subject) -> str | None:
    """Return the fixed version ("" if unknown) if an advisory is about the version of a package, None if it is not."""
    purl, package = subject.purl, affected.package
    if purl is None or package is None or not subject.version or not _is_same_package(package, purl):
        return None
    version = version_key(_bare(subject.version))
    ranges = [one.events for one in affected.ranges or () if one.type in ("SEMVER", "ECOSYSTEM")]
    fixes = [_find_fix(events, version) for events in ranges]
    hits = [fix for fix in fixes if fix is not None]
    if hits:
        return hits[0]
    return "" if any(version_key(_bare(one)) == version for one in affected.versions or ()) else None


def _is_same_package(package: _Package, purl: Purl) -> bool:
    if package.purl:
        with contextlib.suppress(ValueError):
            return parse_purl(package.purl).package == purl.package
    ecosystem = package.ecosystem.partition(":")[0]
    name = re.sub(r"[-_.]+", "-", package.name.lower()) if purl.kind == "pypi" else package.name
    return ecosystem == _ECOSYSTEMS.get(purl.kind) and name == purl.full_name


def _bare(version: str) -> str:
    return version[1:] if version[:1] in ("v", "V") else version


def _find_fix(events: list[_RangeEvent], version: Key) -> str | None:
    """Return the fixed version if a version is in a range, None if it is not. Source: OSV schema, "Evaluation"."""

    def key(text: str) -> Key:
        return () if text == "0" else version_key(_bare(text))

    steps: list[tuple[Key, int, str, str]] = []
    for event in events:
        steps += [(key(event.introduced), 1, "", "introduced")] if event.introduced else []
        steps += [(key(event.fixed), 0, event.fixed, "fixed")] if event.fixed else []
        steps += [(key(event.last_affected), 2, "", "last")] if event.last_affected else []
    inside = False
    for at, _, text, kind in sorted(steps, key=lambda step: (step[0], step[1])):
        if kind == "introduced" and at <= version:
            inside = True
        elif kind == "fixed":
            if at > version and inside:
                return text
            inside = inside and at > version
        elif kind == "last" and at < version:
            inside = False
    return "" if inside else None


def _judge_commit(affected: _Affected, subject: _Subject) -> str | None:
    """Return the fixing commit ("" if unknown) if an advisory is about the commit or tag, None if that is not known."""
    for one in _ranges_of(affected, subject):
        named = {event.introduced for event in one.events} | {event.last_affected for event in one.events}
        fixes = [text for event in one.events if (text := event.fixed)]
        ends = fixes + [text for event in one.events if (text := event.last_affected or event.limit)]
        if subject.commit and (subject.commit in named or ("0" in named and not ends)):
            return fixes[0] if fixes else ""
        version = version_key(_bare(subject.version)) if subject.version else None
        if version and any(version_key(_bare(text)) == version for text in affected.versions or ()):
            return fixes[0] if fixes else ""
    return None


def _ranges_of(affected: _Affected, subject: _Subject) -> Iterator[_Range]:
    for one in affected.ranges or ():
        if one.type != "GIT":
            continue
        commits = {text for event in one.events for text in (event.introduced, event.fixed, event.last_affected)}
        if _normalize_repository(one.repo) == subject.repository if one.repo else subject.commit in commits:
            yield one


def _is_unclear(record: _AdvisoryRecord, subject: _Subject) -> bool:
    """Return whether an advisory is about the repository, and only its history says whether about the commit."""
    if not subject.commit:
        return any(not affected.versions and any(_ranges_of(affected, subject)) for affected in record.affected or ())
    ranges = [one for affected in record.affected or () for one in _ranges_of(affected, subject)]
    return any(subject.commit not in {event.fixed for event in one.events} for one in ranges)
