"""Prune compared with a model: it never removes needed entries, and meets the limit or says why not."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tasks_lib.cache import Cache
from tasks_lib.progress import Silent
from tasks_lib.steps.prune import PruneLimits, Referenced, decide, remove, total_size

NAMES = st.integers(0, 11)
HOUR_S = 3600.0


def content(number: int) -> bytes:
    return number.to_bytes(2, "big") * (50 + 37 * number)


def hexed(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


class Pruning(RuleBasedStateMachine):
    """A cache with blobs, artifacts and users; the model tracks needed content, ages and open blobs."""

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="prune-"))
        self.cache = Cache(self.place / "cache")
        self.ages: dict[int, float] = {}
        self.needed: set[int] = set()
        self.linked: set[int] = set()
        self.open: dict[int, object] = {}

    @rule(number=NAMES, hours=st.sampled_from([0.0, 0.5, 2.0, 30.0, 800.0, -5.0]), linked=st.booleans())
    def put(self, number: int, hours: float, linked: bool) -> None:
        """Have content of an age, perhaps published."""
        with self.cache.writer() as writer:
            writer.write(content(number))
            integrity = writer.commit()
        if linked:
            self.cache.publish(integrity, self.cache.root / "artifacts" / f"n{number}" / "k" / "file")
            self.linked.add(number)
        then = time.time() - hours * HOUR_S
        os.utime(self.cache.path(integrity.digest), (then, then))
        self.ages[number] = hours

    @rule(number=NAMES)
    def need(self, number: int) -> None:
        """Let a definition need it."""
        self.needed.add(number)

    @rule(number=NAMES)
    def forget(self, number: int) -> None:
        """Let no definition need it."""
        self.needed.discard(number)

    @rule(number=NAMES)
    def read(self, number: int) -> None:
        """Open it and keep it open, or close it."""
        if number in self.open:
            self.open.pop(number).close()  # type: ignore[attr-defined]
        elif number in self.ages:
            path = next(self.cache.root.glob(f"v1/blobs/*/*/{hexed(number)}"))
            from tasks_lib.digest import Digest, Integrity

            digest = Digest.sha256(path.name)
            self.open[number] = self.cache.open(Integrity(size=len(content(number)), digest=digest))

    @rule(
        older=st.sampled_from([None, 1.0, 24.0, 720.0]),
        most=st.sampled_from([None, 0, 300, 1500, 10**9]),
        dry=st.booleans(),
    )
    def prune(self, older: float | None, most: int | None, dry: bool) -> None:
        """Prune, and compare the removed content with the model."""
        bounds = PruneLimits(older_than_s=None if older is None else older * HOUR_S, max_size=most)
        reached = Referenced(
            keys=frozenset(),
            digests=frozenset(map(hexed, self.needed)),
            artifacts=frozenset(f"n{number}/k/file" for number in self.needed),
            repositories=frozenset(),
        )
        before = set(self.ages)
        spare = {n for n in before - self.needed if self.ages[n] >= 1}
        must = {n for n in spare if older is not None and self.ages[n] >= older}
        if older is None and most is None:
            must = spare
        verdicts = decide(
            self.cache.maintenance.items(), reached, self.cache.maintenance.last_uses(), bounds, time.time()
        )
        if dry:
            return
        with self.cache.maintenance.pruning(Silent()) as discard:
            remove(verdicts, bounds, discard, time.time())
        left = {n for n in before if any(self.cache.root.glob(f"v1/blobs/*/*/{hexed(n)}"))}
        gone = before - left
        assert not gone & self.needed
        assert gone <= spare - set(self.open)
        assert must - set(self.open) <= gone
        if most is None:
            assert gone == must - set(self.open)
        else:
            size = total_size(item for item in self.cache.maintenance.items() if item.kind in ("blob", "artifact"))
            assert size <= most or not spare - gone - set(self.open)
            # of what went for its size alone, nothing was used later than what stayed
            by_size = gone - must
            if by_size and spare - gone - set(self.open):
                assert (
                    min(self.ages[n] for n in by_size)
                    >= max(self.ages[n] for n in spare - gone - set(self.open)) - 0.01
                )
        for number in gone:
            del self.ages[number]

    @invariant()
    def what_is_left_is_right(self) -> None:
        """Every remaining blob matches its digest."""
        if hasattr(self, "cache"):
            for path in self.cache.root.glob("v1/blobs/*/*/*"):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name

    def teardown(self) -> None:
        """Close and remove everything."""
        if hasattr(self, "place"):
            for file in self.open.values():
                file.close()  # type: ignore[attr-defined]
            shutil.rmtree(self.place)


quick = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
TestPruning = pytest.mark.timeout(120)(Pruning.TestCase)
TestPruning.settings = quick


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestPruningLong(Pruning.TestCase):  # type: ignore[valid-type,misc]  # made by hypothesis
    settings = settings(
        max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )


def test_what_is_in_use_makes_the_next_one_go(tmp_path: Path) -> None:
    """If the least recently used blob is not removable, the next one is removed to meet the size."""
    store, nothing = Cache(tmp_path / "cache"), frozenset[str]()
    made = []
    for number, hours in ((10, 3), (7, 2)):
        with store.writer() as writer:
            writer.write(content(number))
            made.append(writer.commit())
        then = time.time() - hours * HOUR_S
        os.utime(store.path(made[-1].digest), (then, then))
    bounds = PruneLimits(older_than_s=None, max_size=1000)
    reached = Referenced(keys=nothing, digests=nothing, artifacts=nothing, repositories=nothing)
    with store.open(made[0]), store.maintenance.pruning(Silent()) as discard:
        verdicts = decide(store.maintenance.items(), reached, {}, bounds, time.time())
        _, kept = remove(verdicts, bounds, discard, time.time())
    assert kept == {str(store.path(made[0].digest)): "in use"}
    assert [item.name for item in store.maintenance.items() if item.kind == "blob"] == [made[0].digest.hex]
