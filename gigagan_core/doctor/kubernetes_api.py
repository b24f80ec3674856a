"""The Kubernetes API: whether it answers, and whether we may do what a RayJob takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gigagan_core.backends.kuberay import api_client
from gigagan_core.doctor.finding import Finding, fail, ok
from gigagan_core.doctor.request import Request
from gigagan_core.errors import GigaganError
from gigagan_core.text import plain

RIGHTS = (
    ("ray.io", "rayjobs", ("create", "get", "list", "delete")),
    ("", "pods", ("list",)),
    ("", "pods/log", ("get",)),
)
"""(API group, resource, verbs) that the backend uses."""
SECONDS = 10.0


def kubernetes(request: Request) -> Iterator[Finding]:
    """The API server's version, KubeRay's resources, and our rights in the namespace."""
    if request.backend != "kuberay":
        return
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        api = api_client(request.kube_api, request.kube_context)
        version = client.VersionApi(api).get_code(_request_timeout=SECONDS)
    except (ApiException, HTTPError, OSError, GigaganError) as error:
        yield fail(
            "kubernetes",
            f"the API does not answer: {plain(getattr(error, 'reason', None) or error)}",
            "look at `kubectl cluster-info`, KUBECONFIG and --kube-context",
        )
        return
    yield ok("kubernetes", f"{api.configuration.host} serves {version.git_version}")
    yield _kuberay(client.ApisApi(api))
    yield from _rights(client, api, request.namespace)


def _kuberay(apis: Any) -> Finding:
    groups = {group.name for group in apis.get_api_versions(_request_timeout=SECONDS).groups}
    if "ray.io" in groups:
        return ok("kuberay", "the operator's resources are installed")
    return fail(
        "kuberay",
        "the cluster knows no ray.io resources",
        "install the KubeRay operator: infra/README.md has the command",
    )


def _rights(client: Any, api: Any, namespace: str) -> Iterator[Finding]:
    missing = []
    for group, resource, verbs in RIGHTS:
        name, _, subresource = resource.partition("/")
        for verb in verbs:
            attributes = client.V1ResourceAttributes(
                group=group, resource=name, subresource=subresource or None, verb=verb, namespace=namespace
            )
            review = client.V1SelfSubjectAccessReview(
                spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
            )
            answer = client.AuthorizationV1Api(api).create_self_subject_access_review(
                review, _request_timeout=SECONDS
            )
            if not answer.status.allowed:
                missing.append(f"{verb} {resource}")
    if missing:
        yield fail(
            "kubernetes rights",
            f"in namespace {namespace} we may not {', '.join(missing)}",
            "bind a Role with these verbs to the service account or user",
        )
    else:
        yield ok("kubernetes rights", f"all that RayJobs take, in namespace {namespace}")
