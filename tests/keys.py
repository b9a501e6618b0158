"""OpenPGP keys that tests create in a private homedir; gpg's `faketime` creates old and future ones."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Keyring:
    """A homedir with secret keys."""

    home: Path

    def gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run gpg; return its output."""
        command = ["gpg", "--homedir", str(self.home), "--batch", "--no-tty", "--quiet", "--passphrase", ""]
        whole = [*command, "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(whole, input=stdin, capture_output=True, check=True).stdout

    def make(self, name: str, *, at: str = "", expires: str = "never", options: tuple[str, ...] = ()) -> str:
        """Make a signing key; return its fingerprint."""
        time = ("--faked-system-time", at) if at else ()
        self.gpg(*time, *options, "--quick-gen-key", f"{name} <{name}@example.org>", "ed25519", "sign", expires)
        return self.fingerprints(name)[0]

    def fingerprints(self, name: str) -> list[str]:
        """Return the fingerprints of a key: the primary's first, then those of its subkeys."""
        lines = self.gpg("--with-colons", "--list-keys", f"{name}@example.org").decode().splitlines()
        return [line.split(":")[9] for line in lines if line.startswith("fpr:")]

    def sign(self, content: bytes, user: str, *options: str) -> bytes:
        """Return a binary detached signature."""
        return self.gpg("--local-user", user, *options, "--detach-sign", stdin=content)

    def public(self, *names: str, armor: bool = False) -> bytes:
        """Return public keys."""
        return self.gpg(*(["--armor"] if armor else []), "--export", *(f"{name}@example.org" for name in names))


@contextlib.contextmanager
def keyring() -> Iterator[Keyring]:
    """Yield an empty keyring; its agent is stopped afterwards."""
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp", ignore_cleanup_errors=True) as home:
        try:
            yield Keyring(Path(home))
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
