"""The secret that a key's webhooks are signed with."""

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from raydiar.serving.http.access import Owner, UsedServices
from raydiar.serving.http.answers import SecretAnswer
from raydiar.serving.http.problems import responses

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


@router.get("/secret", responses=responses(401, 503))
def read_secret(owner: Owner, services: UsedServices) -> SecretAnswer:
    """Tell what signs the webhooks of this key's jobs; no other key has the same."""
    return SecretAnswer(secret=services.webhook_secrets.of(owner))


@router.post("/secret", responses=responses(401, 409, 503))
def rotate_secret(owner: Owner, services: UsedServices) -> SecretAnswer:
    """Make another secret; the old one signs nothing any more."""
    try:
        return SecretAnswer(secret=services.webhook_secrets.rotate(owner))
    except ValueError as error:
        raise HTTPException(409, f"It cannot be changed here: {error}.") from error
