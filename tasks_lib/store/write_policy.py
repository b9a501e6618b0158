"""Whether a run writes to its stores, decided from the variables of the CI. Pure: no I/O.

This is a convention, not a security boundary: everyone who has the credential of a store can write to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

#: The level of Taskcluster at which results are trusted. Source: taskgraph, `level` in the parameters of a decision.
_TRUSTED_LEVEL: Final = "3"


class Verdict(NamedTuple):
    """Whether to write, and why, as one clause for a message."""

    writes: bool
    reason: str


def judge_write(mode: str, environ: Mapping[str, str]) -> Verdict:
    """Return whether `store_write=MODE` (`auto`, `always` or `never`) writes in this environment.

    `auto` writes if each CI that the environment shows says that the ref is protected and the event is a push.
    """
    if mode != "auto":
        return Verdict(mode == "always", f"store_write={mode}")
    verdicts = [judge(environ) for is_present, judge in _SERVICES if is_present(environ)]
    if not verdicts:
        return Verdict(False, "no CI that reports protected refs is recognised")
    return next((verdict for verdict in verdicts if not verdict.writes), verdicts[0])


def _judge_github(environ: Mapping[str, str]) -> Verdict:
    """Source: GitHub Actions, "Variables reference". Pull requests are other events, `pull_request_target` too."""
    return _judge_push("GitHub", environ, "GITHUB_EVENT_NAME", "GITHUB_REF_PROTECTED")


def _judge_gitlab(environ: Mapping[str, str]) -> Verdict:
    """Source: GitLab, "Predefined CI/CD variables reference".

    CI_COMMIT_REF_PROTECTED alone does not suffice: GitLab's merge request 184658 would set it in the pipelines of merge
    requests whose source branch is protected.
    """
    return _judge_push("GitLab", environ, "CI_PIPELINE_SOURCE", "CI_COMMIT_REF_PROTECTED")


def _judge_push(service: str, environ: Mapping[str, str], event: str, protected: str) -> Verdict:
    if environ.get(event) != "push":
        return Verdict(False, f"{service}: {event} is not push")
    if environ.get(protected) != "true":
        return Verdict(False, f"{service}: {protected} is not true")
    return Verdict(True, f"{service}: a push to a protected ref")


def _judge_taskcluster(environ: Mapping[str, str]) -> Verdict:
    """Source: taskgraph, `transforms/task.py`: MOZ_SCM_LEVEL is the level of the repository."""
    trusted = environ.get("MOZ_SCM_LEVEL") == _TRUSTED_LEVEL
    return Verdict(trusted, f"Taskcluster: MOZ_SCM_LEVEL is {'' if trusted else 'not '}{_TRUSTED_LEVEL}")


def _has(*names: str) -> Callable[[Mapping[str, str]], bool]:
    return lambda environ: any(environ.get(name) for name in names)


_SERVICES: Final = (
    (_has("GITHUB_ACTIONS", "GITHUB_EVENT_NAME", "GITHUB_REF_PROTECTED"), _judge_github),
    (_has("GITLAB_CI", "CI_PIPELINE_SOURCE", "CI_COMMIT_REF_PROTECTED"), _judge_gitlab),
    (_has("TASK_ID"), _judge_taskcluster),
)
