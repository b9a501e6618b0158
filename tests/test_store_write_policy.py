"""Which jobs write to a store: one row for each environment of a CI."""

from __future__ import annotations

import pytest

from tasks_lib.store.opening import judge_write

GITHUB = {"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "owner/repository"}
GITLAB = {"CI": "true", "GITLAB_CI": "true"}
TASK = {"TASK_ID": "fN1SbArXTPSVFNUvaOlinQ", "RUN_ID": "0", "TASKCLUSTER_ROOT_URL": "https://tc.example"}

#: Environment, whether `auto` writes in it, and what its reason contains.
ROWS = {
    "github, push to a protected branch": (
        {**GITHUB, "GITHUB_EVENT_NAME": "push", "GITHUB_REF_PROTECTED": "true", "GITHUB_REF": "refs/heads/main"},
        True,
        "push to a protected ref",
    ),
    "github, push to a branch without protection": (
        {**GITHUB, "GITHUB_EVENT_NAME": "push", "GITHUB_REF_PROTECTED": "false", "GITHUB_REF": "refs/heads/topic"},
        False,
        "GITHUB_REF_PROTECTED",
    ),
    "github, pull request": (
        {**GITHUB, "GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF_PROTECTED": "false", "GITHUB_HEAD_REF": "topic"},
        False,
        "GITHUB_EVENT_NAME",
    ),
    "github, pull request from a protected branch": (
        {**GITHUB, "GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF_PROTECTED": "true", "GITHUB_HEAD_REF": "release"},
        False,
        "GITHUB_EVENT_NAME",
    ),
    "github, pull request of a fork with the rights of its target": (
        {**GITHUB, "GITHUB_EVENT_NAME": "pull_request_target", "GITHUB_REF_PROTECTED": "true"},
        False,
        "GITHUB_EVENT_NAME",
    ),
    "github, after another workflow": (
        {**GITHUB, "GITHUB_EVENT_NAME": "workflow_run", "GITHUB_REF_PROTECTED": "true"},
        False,
        "GITHUB_EVENT_NAME",
    ),
    "github, started by hand": (
        {**GITHUB, "GITHUB_EVENT_NAME": "workflow_dispatch", "GITHUB_REF_PROTECTED": "true"},
        False,
        "GITHUB_EVENT_NAME",
    ),
    "github, schedule": (
        {**GITHUB, "GITHUB_EVENT_NAME": "schedule", "GITHUB_REF_PROTECTED": "true"},
        False,
        "GITHUB_EVENT_NAME",
    ),
    "github, merge queue": (
        {**GITHUB, "GITHUB_EVENT_NAME": "merge_group", "GITHUB_REF_PROTECTED": "true"},
        False,
        "GITHUB_EVENT_NAME",
    ),
    "github, push without a word about protection": (
        {**GITHUB, "GITHUB_EVENT_NAME": "push"},
        False,
        "GITHUB_REF_PROTECTED",
    ),
    "github, only the two variables": ({"GITHUB_EVENT_NAME": "push", "GITHUB_REF_PROTECTED": "true"}, True, "GitHub"),
    "github, another spelling": (
        {**GITHUB, "GITHUB_EVENT_NAME": "push", "GITHUB_REF_PROTECTED": "1"},
        False,
        "GITHUB_REF_PROTECTED",
    ),
    "gitlab, push to a protected branch": (
        {**GITLAB, "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_REF_PROTECTED": "true"},
        True,
        "push to a protected ref",
    ),
    "gitlab, push to a branch without protection": (
        {**GITLAB, "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_REF_PROTECTED": "false"},
        False,
        "CI_COMMIT_REF_PROTECTED",
    ),
    "gitlab, merge request before merge request 184658": (
        {**GITLAB, "CI_PIPELINE_SOURCE": "merge_request_event", "CI_COMMIT_REF_PROTECTED": "false"},
        False,
        "CI_PIPELINE_SOURCE",
    ),
    "gitlab, merge request after merge request 184658": (
        {**GITLAB, "CI_PIPELINE_SOURCE": "merge_request_event", "CI_COMMIT_REF_PROTECTED": "true"},
        False,
        "CI_PIPELINE_SOURCE",
    ),
    "gitlab, started by another pipeline": (
        {**GITLAB, "CI_PIPELINE_SOURCE": "parent_pipeline", "CI_COMMIT_REF_PROTECTED": "true"},
        False,
        "CI_PIPELINE_SOURCE",
    ),
    "gitlab, schedule": (
        {**GITLAB, "CI_PIPELINE_SOURCE": "schedule", "CI_COMMIT_REF_PROTECTED": "true"},
        False,
        "CI_PIPELINE_SOURCE",
    ),
    "gitlab, started by a person": (
        {**GITLAB, "CI_PIPELINE_SOURCE": "web", "CI_COMMIT_REF_PROTECTED": "true"},
        False,
        "CI_PIPELINE_SOURCE",
    ),
    "taskcluster, level 3": ({**TASK, "MOZ_SCM_LEVEL": "3"}, True, "MOZ_SCM_LEVEL"),
    "taskcluster, level 2": ({**TASK, "MOZ_SCM_LEVEL": "2"}, False, "MOZ_SCM_LEVEL"),
    "taskcluster, level 1": ({**TASK, "MOZ_SCM_LEVEL": "1"}, False, "MOZ_SCM_LEVEL"),
    "taskcluster, no level": (TASK, False, "MOZ_SCM_LEVEL"),
    "a level without a task": ({"MOZ_SCM_LEVEL": "3"}, False, "no CI"),
    "taskcluster, level 1, a pull request that sets variables": (
        {**TASK, "MOZ_SCM_LEVEL": "1", "GITHUB_EVENT_NAME": "push", "GITHUB_REF_PROTECTED": "true"},
        False,
        "MOZ_SCM_LEVEL",
    ),
    "nothing": ({}, False, "no CI"),
    "a person": ({"HOME": "/home/me", "USER": "me"}, False, "no CI"),
    "another CI": ({"CI": "true", "BUILDKITE": "true", "BUILDKITE_BRANCH": "main"}, False, "no CI"),
    "empty variables": ({"GITHUB_ACTIONS": "", "TASK_ID": "", "MOZ_SCM_LEVEL": "3"}, False, "no CI"),
}


@pytest.mark.parametrize("name", ROWS)
def test_auto(name: str) -> None:
    """`auto` writes after a push to a protected ref only, and says why or why not."""
    environ, writes, reason = ROWS[name]
    verdict = judge_write("auto", environ)
    assert verdict.writes is writes
    assert reason in verdict.reason


@pytest.mark.parametrize("name", ROWS)
def test_always_and_never(name: str) -> None:
    """The other two values do not depend on the environment."""
    environ = ROWS[name][0]
    assert judge_write("always", environ) == (True, "store_write=always")
    assert judge_write("never", environ) == (False, "store_write=never")
