"""/v1/plans, and what is known by name."""

from typing import Any

from fastapi import APIRouter

from autotune import planner
from autotune.report.listings import devices_here, known_gpus, known_models, known_spaces
from autotune.report.plan import Plan
from autotune.web.bodies import PlanBody
from autotune.web.document import problems
from autotune.web.setup import Here

router = APIRouter(prefix="/v1", tags=["forecast"])


@router.post("/plans", summary="Forecast every legal configuration", responses=problems(422))
def plan(body: PlanBody, setup: Here) -> Plan:
    """Ranked, in about a second, without a GPU. Where nothing fits, `nearest` and `advice` say what would."""
    settings = setup.settings
    body.require_known_model(settings.allowed_factories)
    return planner.plan(body.request(settings.ray_address, settings.storage))


@router.get("/models", summary="Models known by name")
def models() -> dict[str, list[dict[str, Any]]]:
    return {"models": known_models()}


@router.get("/gpus", summary="GPUs known by name, and the devices found here")
def gpus(setup: Here) -> dict[str, list[dict[str, Any]]]:
    return {"gpus": known_gpus(), "here": devices_here(setup.settings.ray_address)}


@router.get("/spaces", summary="Search spaces known by name")
def spaces() -> dict[str, list[dict[str, Any]]]:
    return {"spaces": known_spaces()}
