"""Settings of GraphQL over HTTP: status codes, persisted queries, trusted documents, introspection, federation."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from storefront.core.settings.parsing import split_list


class GraphQLSettings(BaseSettings):
    """Which documents are executed, and what responses reveal of the schema."""

    status_codes: Literal["draft", "2026-09"] = Field(
        "draft",
        description="Which edition of GraphQL over HTTP decides status codes: the draft that clients implement, or 2026-09.",
    )
    persisted_queries: bool = Field(
        True,
        description="Whether Apollo's automatic persisted queries (APQ) are supported: requests with the hash of a document.",
    )
    trusted_documents: Literal["allow", "only"] = Field(
        "allow", description="Whether the manifests' documents are executed beside all others (allow) or exclusively (only)."
    )
    trusted_manifests: str | None = Field(
        None,
        validate_default=True,
        description="Manifests of trusted documents, files of Apollo, Relay or GraphQL Code Generator, comma-separated.",
    )
    introspection: bool = Field(
        True, description="Whether introspection is allowed. If not, validation errors suggest no names of the schema either."
    )
    federation: bool = Field(
        False, description="Whether routers of a federated graph can query the server: it answers `_entities` and `_service`."
    )

    def manifest_paths(self) -> list[Path]:
        """The manifests of trusted documents."""
        return [Path(path) for path in split_list(self.trusted_manifests)]

    @field_validator("trusted_manifests")
    @classmethod
    def _check_manifests(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("trusted_documents") == "only" and not split_list(value):
            raise ValueError("must be set with STOREFRONT_TRUSTED_DOCUMENTS=only: else no document could be executed")
        return value
