"""The calls to Ray Serve about model replicas. They block; call them from a thread."""

from collections.abc import Collection, Sequence

from ray import serve
from ray.serve import RunTarget
from ray.serve.schema import LoggingConfig

from serve_apps.replica import ModelReplica
from serve_apps.replica_apps import Pinned

NODE_LABEL = "ray.io/node-id"
QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")


def list_apps() -> frozenset[str]:
    """Names of all applications, those that are being deleted included."""
    return frozenset(serve.status().applications)


def list_failed() -> tuple[str, ...]:
    """Names of applications that Serve has given up to deploy."""
    return tuple(name for name, app in serve.status().applications.items() if app.status == "DEPLOY_FAILED")


def deploy_replicas(pinned: Sequence[Pinned]) -> None:
    """Have Serve run one replica for each, on exactly its node; returns before they are healthy."""
    serve.run_many(
        [RunTarget(target=_application(one), name=one.app, route_prefix=None) for one in pinned],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def delete_apps(names: Collection[str]) -> None:
    """Begin to delete applications; they are listed until their replicas have ended."""
    for name in names:
        serve.delete(name, _blocking=False)


def _application(pinned: Pinned) -> serve.Application:
    deployment = serve.deployment(
        ModelReplica,
        name="Model",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0, "label_selector": {NODE_LABEL: pinned.node_id}},
        health_check_period_s=2,
        health_check_timeout_s=5,
        graceful_shutdown_timeout_s=1,
        logging_config=QUIET,
    )
    return deployment.bind(pinned.model)
