"""Start the one-file program that `packaging` builds; it becomes `__main__.py` of that file.

Every Python 3 must be able to compile this module, so that an unsupported version gets a sentence and no traceback.
"""

import os
import shutil
import sys

#: The versions of Python for which the file carries dependencies; `packaging` replaces this line.
VERSIONS = [(3, 11)]
#: The name of the program; replaced, too.
PROGRAM = "fetch-content"


def main() -> int:
    """Unpack the file unless that is done, then run the command; return an exit status when it cannot start."""
    if sys.version_info[:2] not in VERSIONS:
        wanted = " or ".join("{}.{}".format(*version) for version in VERSIONS)
        found = "{}.{} ({})".format(sys.version_info[0], sys.version_info[1], sys.executable)
        sys.stderr.write("{}: this file needs Python {}, but Python {} runs it\n".format(PROGRAM, wanted, found))
        return 1
    reasons = []
    for place in _places():
        root = os.path.join(place, "{}.{}".format(*sys.version_info))
        try:
            if "SHIV_ROOT" not in os.environ:
                _create_private(place)
            _start(root)
        except OSError as error:
            reasons.append("{}: {}".format(place, error.strerror or error))
            for name in os.listdir(root) if os.path.isdir(root) else []:
                if name.endswith(".tmp"):  # what was unpacked so far
                    shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    sys.stderr.write("{}: cannot unpack itself: {}\n".format(PROGRAM, "; ".join(reasons)))
    sys.stderr.write("set TMPDIR or SHIV_ROOT to a directory on a file system with free space\n")
    return 1


def _places() -> list:  # type: ignore[type-arg]  # `list[str]` needs Python 3.9
    """Return the directories to unpack to, the preferred one first; a HOME that does not exist is not made."""
    if "SHIV_ROOT" in os.environ:
        return [os.environ["SHIV_ROOT"]]
    home = os.path.expanduser("~")
    cache = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if os.path.isdir(home) else "")
    temporary = os.path.join(os.environ.get("TMPDIR") or "/tmp", "{}-{}".format(PROGRAM, os.getuid()))
    return [os.path.join(cache, PROGRAM), temporary] if os.path.isabs(cache) else [temporary]


def _create_private(place: str) -> None:
    """Create a directory whose content only this user can change.

    Raises:
        OSError: it cannot be created, or others can write to an existing one.
    """
    os.makedirs(place, mode=0o700, exist_ok=True)
    facts = os.lstat(place)
    if os.path.islink(place) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise OSError("another user can change it")


def _start(root: str) -> None:
    """Unpack the file below `root` and run the command, which ends this process.

    Raises:
        OSError: the file cannot be unpacked.
    """
    import _bootstrap  # type: ignore[import-not-found]  # shiv adds it to the file, which has it when it runs

    before = os.environ.get("SHIV_ROOT")
    run = _bootstrap.run

    def restore_and_run(command: object) -> None:
        if before is None:
            del os.environ["SHIV_ROOT"]  # programs that the command starts must not inherit it
        else:
            os.environ["SHIV_ROOT"] = before
        run(command)

    _bootstrap.run = restore_and_run
    os.environ["SHIV_ROOT"] = root
    _bootstrap.bootstrap()


if __name__ == "__main__":
    sys.exit(main())
