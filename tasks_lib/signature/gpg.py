"""gpg, isolated from the user's configuration and from the network.

Each verification uses a new private homedir, a clean environment, a separate descriptor for status lines, and a
deadline; the agent is stopped afterwards. gpg reads the content from the descriptor that the caller has verified.
Source: faults.md section 7; gpg(1), "--status-fd", "--no-options".
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.errors import SignatureError, ToolError, UnknownSignerError, escape_text
from tasks_lib.fs.system_calls import signal_group
from tasks_lib.progress import Progress
from tasks_lib.signature.packets import MAX_KEYS_BYTES, key_packets, signature_packets
from tasks_lib.signature.status import Allowed, ValidSignature, evaluate, evaluate_each
from tasks_lib.units import format_size

#: Seconds for one run of gpg, and the rate in bytes per second for which the size of the content extends it.
#: Source: faults.md section 7; SHA-512 reaches 200 MB/s and more, a slow disk 20.
TIMEOUT_S: Final = 30.0
_RATE_BPS: Final = 20_000_000
#: Largest number of bytes that are read of gpg's status output.
_MAX_SAID: Final = 1 << 20
#: Longest parent of a homedir in bytes: the path of the agent's socket is limited to 108. Source: unix(7), sun_path.
_MAX_DIRECTORY: Final = 60
_LOOK_S: Final = 0.1
_OPTIONS: Final = (
    "--no-options", "--batch", "--no-tty", "--no-greeting", "--quiet", "--no-auto-key-retrieve",
    "--no-auto-key-locate", "--trust-model", "always", "--display-charset", "utf-8", "--exit-on-status-write-error",
)  # fmt: skip
#: The lines between which the parts of a clear-signed text are. Source: RFC 9580 section 7.
_CLEARSIGNED: Final = [
    b"-----BEGIN PGP SIGNED MESSAGE-----", b"-----BEGIN PGP SIGNATURE-----", b"-----END PGP SIGNATURE-----",
]  # fmt: skip
_UNSIGNED_HINT: Final = "open its URL in a browser: a server may send a page instead of the signed text"
_WEAK: Final = ("--weak-digest", "SHA1", "--weak-digest", "RIPEMD160")


class Gpg:
    """The gpg program found on `search` (a PATH), with a deadline for each of its runs."""

    def __init__(self, search: str, timeout_s: float = TIMEOUT_S) -> None:
        self._search = search
        self._timeout_s = timeout_s

    def verify(
        self, content: BinaryIO, signature: bytes, *, keys: bytes, fingerprint: str, progress: Progress
    ) -> ValidSignature:
        """Check a detached signature over a whole file.

        The content is an open file with a descriptor, read from its start and left there. Signature and keys are binary
        or armored. `fingerprint` is the hex of the only primary key that may sign; "" allows every primary key of
        `keys`.

        Raises:
            SignatureError: it is not exactly one good signature of an allowed key.
            ToolError: gpg is missing, hangs or cannot be run.
            CancelledError: the run was asked to stop.
        """
        packets = signature_packets(signature)
        with self._home(keys, fingerprint, progress) as (home, allowed):
            home.write("signature", packets)
            os.lseek(content.fileno(), 0, os.SEEK_SET)  # seek() may move only within the buffer
            arguments = [*_WEAK, "--verify", "--", str(home.path / "signature"), "-"]
            said = home.run(arguments, stdin=content, size=os.fstat(content.fileno()).st_size)
            content.seek(0)
            return evaluate(said, allowed, time.time())

    def verify_clearsigned(
        self, message: bytes, *, keys: bytes, fingerprint: str, progress: Progress
    ) -> tuple[ValidSignature, bytes]:
        """Check a clear-signed text; return the signature and the text that gpg verified.

        Raises:
            SignatureError, ToolError, CancelledError: as `verify`.
        """
        if b"-----BEGIN PGP SIGNED MESSAGE-----" not in message:
            raise SignatureError("the text is not signed: it contains no PGP signed message", hint=_UNSIGNED_HINT)
        with self._home(keys, fingerprint, progress) as (home, allowed):
            said = home.verify_text(message)
            return evaluate(said, allowed, time.time()), (home.path / "text").read_bytes()

    def verify_by_any(
        self, message: bytes, *, keys: bytes, fingerprints: Collection[str], progress: Progress
    ) -> tuple[list[ValidSignature], bytes]:
        """Check a clear-signed text that several keys may have signed; return the good signatures and the text.

        Nothing may be before or after the text. `fingerprints` are the hex of the primary keys of which one must have
        signed it. The caller compares the expiry of the keys with the date of the text.

        Raises:
            SignatureError: a signature does not match, or none is a good one of an allowed key.
            ToolError, CancelledError: as `verify`.
        """
        if not _is_clearsigned(message):
            raise SignatureError("the text is not signed: it is not a PGP signed message", hint=_UNSIGNED_HINT)
        with self._home(keys, "", progress) as (home, found):
            wanted = {one.upper() for one in fingerprints}
            if wanted.isdisjoint(found.primaries):
                _restrict(found, min(wanted))  # raises
            said = home.verify_text(message)
            allowed = Allowed(primaries=found.primaries & wanted, expiries=found.expiries)
            good, refused = evaluate_each(said, allowed, time.time())
            if not good:
                known = (one for one in refused if not isinstance(one, UnknownSignerError))
                raise next(
                    known, refused[0] if refused else SignatureError("gpg found no signature", hint=_UNSIGNED_HINT)
                )
            return good, (home.path / "text").read_bytes()

    def list_expiries(self, keys: bytes, fingerprint: str, progress: Progress) -> dict[str, int]:
        """Return the expiry of each primary key that may sign, in seconds since 1970 (0: never).

        Raises:
            SignatureError, ToolError, CancelledError: as `verify`.
        """
        with self._home(keys, fingerprint, progress) as (_, allowed):
            return {key: allowed.expiries.get(key, 0) for key in sorted(allowed.primaries)}

    @contextlib.contextmanager
    def _home(self, keys: bytes, fingerprint: str, progress: Progress) -> Iterator[tuple[_Home, Allowed]]:
        program = shutil.which("gpg", path=self._search)
        if program is None:
            raise ToolError("gpg is not installed, but required to verify a signature", hint="install gnupg")
        packets = key_packets(keys)
        directory = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(
            prefix="gpg-", dir=directory if len(directory) <= _MAX_DIRECTORY else "/tmp", ignore_cleanup_errors=True
        ) as path:
            home = _Home(Path(path), program, self._search, self._timeout_s, progress)
            try:
                home.run(["--import"], stdin=home.write("keys", packets))
                keys_found = _parse_listing(home.read_output(["--with-colons", "--list-keys"]))
                yield home, _restrict(keys_found, fingerprint.upper())
            finally:
                home.close()


class _Home:
    """A private homedir, created by `mkdtemp` with mode 0700, and gpg runs in it."""

    def __init__(self, path: Path, program: str, search: str, timeout_s: float, progress: Progress) -> None:
        self.path = path
        self._program, self._timeout_s, self._progress = program, timeout_s, progress
        self._environ = {
            "PATH": search, "HOME": str(path), "GNUPGHOME": str(path), "LC_ALL": "C", "LANGUAGE": "C", "TZ": "UTC",
        }  # fmt: skip

    def write(self, name: str, data: bytes) -> Path:
        """Write a file beside the keyring."""
        path = self.path / name
        path.write_bytes(data)
        return path

    def run(self, arguments: list[str], *, stdin: BinaryIO | Path | None = None, size: int = 0) -> list[str]:
        """Run gpg; return its status lines. The exit status is ignored: it is 0 for a revoked key."""
        with (self.path / "status").open("w+b") as status, (self.path / "stderr").open("w+b") as stderr:
            whole = [self._program, "--homedir", str(self.path), *_OPTIONS, "--status-fd", str(status.fileno())]
            self._wait([*whole, *arguments], stdin, stderr, size, keep=status.fileno())
            status.seek(0)
            lines = status.read(_MAX_SAID).decode("utf-8", "replace").splitlines()
        return [line.removeprefix("[GNUPG:] ") for line in lines if line.startswith("[GNUPG:] ")]

    def verify_text(self, message: bytes) -> list[str]:
        """Verify a clear-signed text, write what was verified to the file `text`; return the status lines."""
        file = self.write("message", message)
        return self.run([*_WEAK, "--output", str(self.path / "text"), "--verify", "--", str(file)])

    def read_output(self, arguments: list[str]) -> list[str]:
        """Run gpg; return the lines of its standard output."""
        with (self.path / "answer").open("w+b") as output:
            whole = [self._program, "--homedir", str(self.path), *_OPTIONS, *arguments]
            self._wait(whole, None, subprocess.DEVNULL, 0, output=output)
            output.seek(0)
            return output.read(_MAX_SAID * 16).decode("utf-8", "replace").splitlines()

    def _wait(
        self,
        command: list[str],
        stdin: BinaryIO | Path | None,
        stderr: BinaryIO | int,
        size: int,
        *,
        keep: int = -1,
        output: BinaryIO | None = None,
    ) -> None:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(stdin.open("rb")) if isinstance(stdin, Path) else stdin
            try:
                process = subprocess.Popen(
                    command,
                    stdin=source if source is not None else subprocess.DEVNULL,
                    stdout=output if output is not None else subprocess.DEVNULL,
                    stderr=stderr,
                    env=self._environ,
                    pass_fds=(keep,) if keep >= 0 else (),
                    start_new_session=True,
                )
            except OSError as error:
                raise ToolError(
                    f"cannot run {escape_text(command[0])}: {error.strerror or error}",
                    hint="check its permissions, or install gnupg again",
                ) from error
            self._wait_for(process, self._timeout_s + size / _RATE_BPS)

    def _wait_for(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        try:
            while True:
                self._progress.check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
                    return
                if time.monotonic() > ends:
                    raise ToolError(
                        f"gpg did not finish within {timeout_s:.0f} s and was stopped",
                        hint=f"check that {escape_text(self._program)} --version works",
                    )
        finally:
            if process.poll() is None:
                signal_group(process.pid, signal.SIGKILL)
                process.wait()

    def close(self) -> None:
        """Stop the agent that gpg may have started for this homedir; it would outlive this process."""
        if not any(self.path.glob("S.*")) and not Path("/run/user").is_dir():
            return
        program = shutil.which("gpgconf", path=self._environ["PATH"])
        if program is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    [program, "--homedir", str(self.path), "--kill", "all"],
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=self._timeout_s,
                    check=False,
                )


def _is_clearsigned(message: bytes) -> bool:
    """Return whether a message is one clear-signed text with nothing around it, which readers could take for a part."""
    lines = [line.rstrip() for line in message.rstrip().split(b"\n")]
    marks = [line for line in lines if line.startswith(b"-----")]
    return marks == _CLEARSIGNED and [lines[0], lines[-1]] == [marks[0], marks[-1]]


def _parse_listing(lines: list[str]) -> Allowed:
    """Return the keys in a listing. Source: GnuPG doc/DETAILS, "Format of the colon listings"."""
    expiries: dict[str, int] = {}
    primaries: set[str] = set()
    record: list[str] = []
    for line in lines:
        words = line.split(":")
        if words[0] in ("pub", "sub"):
            record = words
        elif words[0] == "fpr" and record and len(words) > 9:
            expiries[words[9]] = int(record[6]) if record[6].isdigit() else 0
            if record[0] == "pub":
                primaries.add(words[9])
            record = []
    return Allowed(primaries=frozenset(primaries), expiries=expiries)


def _restrict(keys: Allowed, fingerprint: str) -> Allowed:
    """Return `keys` with only the pinned primary key allowed.

    Raises:
        SignatureError: there is no usable key, or the pinned one is missing.
    """
    if not keys.primaries:
        raise SignatureError("gpg accepts no key in the key file", hint="list its keys with: gpg --show-keys FILE")
    if not fingerprint:
        return keys
    if fingerprint not in keys.primaries:
        available = ", ".join(sorted(keys.primaries)[:3])
        reason = "is a subkey: pin its primary key" if fingerprint in keys.expiries else "is not in the key file"
        raise SignatureError(
            f"the pinned key {fingerprint} {reason}; found {available}",
            hint="compare the fingerprint with upstream's announcement, then correct it or the key file",
        )
    return Allowed(primaries=frozenset({fingerprint}), expiries=keys.expiries)


def read_key_file(path: str, field: str = "") -> bytes:
    """Return the content of a key file; `field` is the key of the definition that names it, if one does.

    Raises:
        SignatureError: it cannot be read, or is too large.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_KEYS_BYTES + 1)
    except OSError as error:
        raise SignatureError(
            f"cannot read key file {escape_text(path)}: {error.strerror or error}",
            hint=f"`{field}:` is relative to the root of the repository" if field else "check the path",
        ) from error
    if len(content) > MAX_KEYS_BYTES:
        raise SignatureError(
            f"key file {escape_text(path)} is larger than {format_size(MAX_KEYS_BYTES)}",
            hint="export only the keys that sign: gpg --armor --export FINGERPRINT",
        )
    return content
