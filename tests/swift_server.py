"""Serve OpenStack Swift with its S3 interface in one process; run by the Python that has Swift.

    PYTHON tests/swift_server.py DIRECTORY PORT ACCESS SECRET

Account, container and object server are processes over one device, `DIRECTORY`/d/d0; this process is the proxy, and the
leader of their group. A dictionary replaces memcached. ACCESS is a user of tempauth, `test:NAME`.
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import sys
from pathlib import Path

import eventlet

eventlet.monkey_patch()

from swift.common import utils, wsgi  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402

PROXY = """
[DEFAULT]
swift_dir = {directory}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors cache s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
paste.filter_factory = swift_server:cache_factory
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
"""
BACKEND = """
[DEFAULT]
devices = {directory}/d
swift_dir = {directory}
mount_check = false
log_level = ERROR
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""


class Cache:
    """What the middleware needs of a memcached client."""

    def __init__(self) -> None:
        self.stored: dict[str, object] = {}

    def get(self, key, *_words, **_more):
        return self.stored.get(key)

    def set(self, key, value, *_words, **_more):
        self.stored[key] = value

    def delete(self, key, *_words, **_more):
        self.stored.pop(key, None)

    def incr(self, key, delta=1, *_words, **_more):
        self.stored[key] = int(self.stored.get(key) or 0) + delta
        return self.stored[key]


def cache_factory(_configuration, **_local):
    cache = Cache()

    def wrap(application):
        def answer(environ, start):
            environ["swift.cache"] = cache
            return application(environ, start)

        return answer

    return wrap


def serve(directory, name, text, sock):
    path = Path(directory) / f"{name}-server.conf"
    path.write_text(text)
    logger = utils.get_logger({"log_level": "ERROR"}, name)
    conf = {"__file__": str(path), "swift_dir": str(directory), "keepalive_timeout": "60"}
    wsgi.run_server(conf, logger, sock)


def main(directory, port, access, secret):
    (Path(directory) / "d/d0").mkdir(parents=True)
    (Path(directory) / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n"
    )
    utils.set_swift_dir(str(directory))
    listening = {name: eventlet.listen(("127.0.0.1", 0)) for name in ("account", "container", "object")}
    for name, sock in listening.items():
        builder = RingBuilder(4, 1, 1)
        place = {"ip": "127.0.0.1", "port": sock.getsockname()[1], "device": "d0"}
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, **place})
        builder.rebalance()
        builder.get_ring().save(f"{directory}/{name}.ring.gz")
    sys.path.insert(0, str(Path(__file__).parent))
    for name, sock in listening.items():
        if os.fork() == 0:
            serve(directory, name, BACKEND.format(directory=directory, name=name), sock)
            os._exit(1)
    proxy = PROXY.format(directory=directory, user=access.replace(":", "_"), secret=secret)
    serve(directory, "proxy", proxy, eventlet.listen(("127.0.0.1", int(port))))


if __name__ == "__main__":
    main(*sys.argv[1:])
