"""Let each Python process that finds this module run without what Linux offers beyond POSIX.

    PYTHONPATH=$PWD/tests/portable pytest ...

Python imports it when it starts. What macOS lacks is removed from Python's own modules, so that code that uses it fails,
and our table of what the system offers is emptied, so that every fallback is used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Final

#: Source: typeshed, what is behind `sys.platform != "darwin"` or `== "linux"`. Other modules take up `select` first.
MISSING: Final = {
    "select": "epoll EPOLLIN EPOLLOUT EPOLLRDHUP POLLRDHUP",
    "os": "O_TMPFILE O_PATH O_DIRECT O_LARGEFILE O_NOATIME O_RSYNC sched_getaffinity sched_setaffinity copy_file_range"
    " splice memfd_create eventfd pidfd_open posix_fadvise posix_fallocate fdatasync pipe2 getresuid getresgid P_PIDFD",
    "fcntl": "F_SETPIPE_SZ F_GETPIPE_SZ F_OFD_SETLK F_OFD_SETLKW F_OFD_GETLK F_ADD_SEALS F_NOTIFY FICLONE FICLONERANGE",
    "resource": "prlimit RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_OFILE RLIMIT_RTPRIO RLIMIT_RTTIME RUSAGE_THREAD",
    "signal": "SIGRTMIN SIGRTMAX SIGPWR SIGSTKFLT SIGPOLL SIGCLD sigtimedwait sigwaitinfo pidfd_send_signal",
    "socket": "TCP_USER_TIMEOUT TCP_QUICKACK TCP_CORK TCP_DEFER_ACCEPT SO_BINDTODEVICE SO_DOMAIN SO_MARK SO_PASSCRED"
    " SO_PEERCRED SO_PROTOCOL MSG_CMSG_CLOEXEC MSG_MORE AF_NETLINK AF_PACKET AF_VSOCK",
}

for name, attributes in MISSING.items():
    module = importlib.import_module(name)
    for attribute in attributes.split():
        if hasattr(module, attribute):
            delattr(module, attribute)
        if attribute in getattr(module, "__all__", ()):
            module.__all__.remove(attribute)
if hasattr(os, "process_cpu_count"):  # since Python 3.13, made of what was removed
    os.process_cpu_count = os.cpu_count

with contextlib.suppress(ImportError):  # the Python of another program, for example of hg
    from tasks_lib.fs import system_calls

    system_calls.FEATURES = system_calls.Features()
