"""The models actor: carries out the scheduler's plans on Ray Serve, once a second and when a host comes or leaves.

All rules live in pure modules.

cluster.autoscale  how many replicas        cluster.rollout            which root of a name
cluster.placement  on which hosts           serve_apps.replica_apps    what Serve has to change
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ray
from ray.serve.exceptions import RayServeException

from cluster import autoscale, rollout
from cluster.actors.handles import REGISTRY, SCHEDULER, find, host_actor_name
from cluster.actors.scheduler import follow_fleet
from cluster.autoscale import Scale
from cluster.config import NetworkConfig
from cluster.errors import RolloutError, UnknownModelError
from cluster.fleet import FleetSnapshot, HostState
from cluster.model_book import MODEL_BOOK, ModelBook
from cluster.model_settings import ModelSettings
from cluster.placement import ModelDemand, ModelPlan
from cluster.rollout import Versions
from cluster.rules import first_loss
from serve_apps.replica_apps import PREFIX, Changes, plan_changes
from serve_apps.serve_calls import delete_apps, deploy_replicas, list_apps, list_failed

PERIOD_S = 1.0
HEARD_S = 0.1  # the scheduler hears of a host when this actor does, and not after it
RATE_PERIOD_S = 5.0  # over which token throughput is measured
CALL_TIMEOUT_S = 30.0
_NO_SETTINGS = ModelSettings()
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Work:
    """What is known of one model's work between two rounds."""

    scale: Scale
    offered: int = 0
    needed: int = 0


class ModelsActor:
    """Keeps the models of this network where they should be.

    A restart loses nothing: roots in use are on disk, replicas are Serve's, and what hosts serve stands in the picture.
    """

    async def __init__(self, config_path: str) -> None:  # type: ignore[misc]  # Ray awaits it
        config = NetworkConfig.load(Path(config_path))
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._settings = config.models
        self._book = ModelBook(config.state / MODEL_BOOK)
        self._versions = self._book.load()
        self._fleet: FleetSnapshot = await find(REGISTRY).snapshot.remote()
        self._measured_from, self._rates = self._fleet, dict[bytes, int]()
        self._work: dict[str, _Work] = {}
        self._missing: dict[bytes, int] = {}
        self._trouble = ""
        self._unloading: dict[tuple[bytes, bytes], asyncio.Task[None]] = {}
        self._nodes_changed = asyncio.Event()  # a host came, or left: the next round does not wait
        self._loops = [
            asyncio.create_task(follow_fleet(self._take, version=self._fleet.version)),
            asyncio.create_task(self._run()),
        ]

    async def ready(self) -> int:
        """Returns (how many models are managed) once there is a picture of the fleet."""
        self._check_loops()
        return len(self._versions)

    async def rollout(self, name: str, root: bytes | None = None, first: int = 1) -> dict[str, Any]:
        """Deploy a model of the registry, or change it to another root of the same name; returns its row of `models`.

        Args:
            name: as the registry lists it.
            root: manifest root, 32 bytes; None: the only one that is not in use yet.
            first: hosts that must serve the new root before leases are for it.

        Raises:
            UnknownModelError: the registry does not list the name.
            RolloutError: there is no such root, or it cannot begin now.
        """
        self._check_loops()
        roots = [offer.root for offer in self._fleet.models if offer.name == name]
        if not roots:
            raise UnknownModelError(name, tuple(sorted({offer.name for offer in self._fleet.models})))
        versions = self._versions.get(name)
        if root is None:
            others = [one for one in roots if versions is None or one != versions.root]
            if len(others) != 1:
                raise RolloutError(name, f"{len(others)} other roots are in the registry: name one")
            root = others[0]
        if root not in roots:
            raise RolloutError(name, f"the registry does not list root {root.hex()} under this name")
        begun = Versions(name=name, root=root) if versions is None else rollout.begin(versions, root, first=first)
        self._save(begun)
        return self._row(begun)

    async def roll_back(self, name: str) -> dict[str, Any]:
        """Take back the last roll-out of a model. RolloutError when there is none."""
        self._check_loops()
        if name not in self._versions:
            raise RolloutError(name, "it was never rolled out")
        self._save(rollout.roll_back(self._versions[name]))
        return self._row(self._versions[name])

    async def models(self) -> list[dict[str, Any]]:
        """Every managed model with its roots and replicas, as JSON."""
        self._check_loops()
        return [self._row(versions) for _, versions in sorted(self._versions.items())]

    async def plan(self) -> dict[str, Any]:
        """What the next round would change, as JSON; nothing is carried out."""
        self._check_loops()
        plan = await self._ask_plan(self._demands(), dry=True)
        return {
            "load": [self._where(replica.model, replica.host_id) for replica in plan.load],
            "unload": [self._where(replica.model, replica.host_id) for replica in plan.unload],
            "leaving": [self._where(replica.model, replica.host_id) for replica in plan.leaving],
            "missing": [
                {"root": model.hex(), "replicas": count, "lost": [f"{loss.name} {loss}" for loss in losses[:8]]}
                for model, count, losses in plan.missing
            ],
        }

    # --- the loop ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
                self._trouble = ""
            except (ray.exceptions.RayError, RayServeException, ValueError, TimeoutError) as error:
                self._trouble = f"{type(error).__name__}: {error}"[:300]
                _log.warning("models wait: %s", self._trouble)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nodes_changed.wait(), PERIOD_S)
                await asyncio.sleep(HEARD_S)
            self._nodes_changed.clear()

    async def _round(self) -> None:
        """(1) which roots (2) what leases are for (3) how many replicas, and where (4) carry it out."""
        if not self._versions:
            return
        now = datetime.now(UTC)
        for name, versions in [*self._versions.items()]:  # (1)
            retire_s = self._settings_of(name).retire_after_s
            if versions.outgoing is not None and versions.root not in self._fleet.preferred:
                self._save(rollout.postpone(versions, now=now, retire_s=retire_s))  # gateways do not know yet
            else:
                self._save(rollout.step(versions, self._serving(versions), now=now, retire_s=retire_s))
        preferred = frozenset(versions.root for versions in self._versions.values())
        if preferred != self._fleet.preferred:  # (2)
            await asyncio.wait_for(find(REGISTRY).prefer_models.remote(preferred), CALL_TIMEOUT_S)
        self._measure(now)
        plan = await self._ask_plan(self._demands())  # (3)
        self._missing = {model: count for model, count, _ in plan.missing}
        managed = self._managed()
        apps = await asyncio.to_thread(list_apps)
        changes = plan_changes(plan.replicas, managed, self._fleet, apps, now=now)
        await self._carry_out(changes)  # (4)
        failed = [app for app in await asyncio.to_thread(list_failed) if app.startswith(PREFIX)]
        await asyncio.to_thread(delete_apps, failed)  # Serve has given up; the next round tries anew

    async def _carry_out(self, changes: Changes) -> None:
        if changes.delete:
            await asyncio.to_thread(delete_apps, changes.delete)
        for model, host_id in changes.unload:
            if (model, host_id) not in self._unloading:
                task = asyncio.create_task(self._unload(model, host_id))
                self._unloading[model, host_id] = task
        ready = [pinned for pinned in changes.deploy if (pinned.model, pinned.host_id) not in self._unloading]
        if ready:
            await asyncio.to_thread(deploy_replicas, ready)

    async def _unload(self, model: bytes, host_id: bytes) -> None:
        """The enclave answers when the answers that ran have ended; one that cannot be asked is asked again."""
        try:
            await find(host_actor_name(host_id)).unload.remote(model, self._notice_s(model, host_id))
        except (ray.exceptions.RayError, ValueError) as error:
            self._trouble = f"host {host_id.hex()} did not unload: {type(error).__name__}"
            _log.warning("model %s stays on host %s: %s", model.hex()[:16], host_id.hex(), type(error).__name__)
        finally:
            del self._unloading[model, host_id]

    def _notice_s(self, model: bytes, host_id: bytes) -> int:
        """How long a replica that is too much goes on answering: as long as leases that were given for it last.

        A root that is retired, or a host that drains, got no leases lately.
        """
        host = self._fleet.host(host_id)
        named = next((one for one in self._versions.values() if one.root == model), None)
        if named is None or host is None or host.state is not HostState.ACTIVE:
            return 0
        return self._settings_of(named.name).retire_after_s

    # --- what it decides from ------------------------------------------------------------------------------------

    def _demands(self) -> list[ModelDemand]:
        demands = []
        for name, versions in sorted(self._versions.items()):
            settings, wanted = self._settings_of(name), self._work_of(versions).scale.wanted
            for root, replicas in rollout.replicas_wanted(
                versions, wanted, self._serving(versions), self._missing
            ).items():
                requirement = settings.requirement(root)
                demands.append(ModelDemand(requirement=requirement, replicas=replicas, spare_s=settings.spare_s))
        return demands

    def _measure(self, now: datetime) -> None:
        """Bring every model's scale up to date."""
        if self._fleet.at - self._measured_from.at >= timedelta(seconds=RATE_PERIOD_S):
            self._rates = autoscale.token_rates(self._measured_from, self._fleet)
            self._measured_from = self._fleet
        for name, versions in self._versions.items():
            settings, work = self._settings_of(name), self._work_of(versions)
            work.offered = self._offered(settings, versions.root, now)
            sample = autoscale.sample_of(versions.live, self._fleet, self._rates, settings.limits, offered=work.offered)
            work.needed = autoscale.needed(sample, settings.limits)
            work.scale = autoscale.step(work.scale, sample, settings.limits, now=now)

    def _work_of(self, versions: Versions) -> _Work:
        """A model that is new here begins with what serves it now, so that a restart takes nothing away."""
        if versions.name not in self._work:
            serving = self._serving(versions).get(versions.root, 0)
            self._work[versions.name] = _Work(scale=Scale(wanted=serving))
        return self._work[versions.name]

    def _offered(self, settings: ModelSettings, root: bytes, now: datetime) -> int:
        requirement = settings.requirement(root)
        return sum(
            host.node_id is not None
            and not (host.window is not None and host.window.covers(now))
            and first_loss(host, requirement, now=now) is None
            for host in self._fleet.active()
        )

    def _serving(self, versions: Versions) -> Counter[bytes]:
        active = (host for host in self._fleet.hosts if host.state is HostState.ACTIVE and host.load.ready)
        return Counter(root for host in active for root in host.load.models & versions.live)

    def _managed(self) -> dict[bytes, int]:
        """Every root of the names managed here, and how long a replica of it stays without new leases."""
        managed: dict[bytes, int] = {}
        for name, versions in self._versions.items():
            known = {offer.root for offer in self._fleet.models if offer.name == name} | versions.live
            known |= {versions.before} if versions.before else set()
            managed |= dict.fromkeys(sorted(known), self._settings_of(name).retire_after_s)
        return managed

    async def _ask_plan(self, demands: Sequence[ModelDemand], *, dry: bool = False) -> ModelPlan:
        retired = frozenset(self._managed()) - {demand.model for demand in demands}
        plan: ModelPlan = await asyncio.wait_for(
            find(SCHEDULER).plan_models.remote(demands, retired, dry), CALL_TIMEOUT_S
        )
        return plan

    # --- small things --------------------------------------------------------------------------------------------

    def _settings_of(self, name: str) -> ModelSettings:
        return self._settings.get(name, _NO_SETTINGS)

    def _save(self, versions: Versions) -> None:
        if self._versions.get(versions.name) != versions:
            _log.info("model %s: %s", versions.name, rollout.encode_versions(versions))
            self._versions[versions.name] = versions
            self._book.save(self._versions)

    def _row(self, versions: Versions) -> dict[str, Any]:
        serving, work = self._serving(versions), self._work_of(versions)
        return {
            **rollout.encode_versions(versions),
            "wanted": work.scale.wanted,
            "needed": work.needed,
            "offered": work.offered,
            "serving": {root.hex(): serving.get(root, 0) for root in sorted(versions.live)},
            "trouble": self._trouble,
        }

    def _where(self, model: bytes, host_id: bytes) -> dict[str, str]:
        host = self._fleet.host(host_id)
        return {"root": model.hex(), "host": host.label if host else host_id.hex()}

    def _take(self, fleet: FleetSnapshot) -> None:
        before, self._fleet = self._fleet, fleet
        if _bound_nodes(before) != _bound_nodes(fleet):
            self._nodes_changed.set()

    def _check_loops(self) -> None:
        """A loop that died must not look like models that need nothing."""
        for loop in self._loops:
            if loop.done():
                loop.result()
                raise RuntimeError("a loop of the models actor ended")


def _bound_nodes(fleet: FleetSnapshot) -> frozenset[str | None]:
    return frozenset(host.node_id for host in fleet.active())
