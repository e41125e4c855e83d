"""Requests to an MLflow server stop at the fence: MLflow asks its header providers at every single one."""

from mlflow.tracking.request_header.abstract_request_header_provider import RequestHeaderProvider
from mlflow.tracking.request_header.registry import _request_header_provider_registry as providers

from experiments.storage import fence


class FencedRequests(RequestHeaderProvider):
    """Adds no header. An exception would only be logged there; the fence ends the process."""

    def in_context(self) -> bool:
        fence.check()
        return False

    def request_headers(self) -> dict[str, str]:
        return {}


def fence_requests() -> None:
    """Has MLflow ask, once per process."""
    if not any(isinstance(provider, FencedRequests) for provider in providers):
        providers.register(FencedRequests)
