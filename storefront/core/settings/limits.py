"""Limits of requests, GraphQL documents, WebSockets and unread responses (backpressure)."""

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings


class LimitSettings(BaseSettings):
    """Limits of each request and connection."""

    max_body: int = Field(1_500_000, ge=10_000, description="Maximum bytes of the body of an anonymous request.")
    max_signed_in_body: int = Field(
        4_000_000, ge=10_000, description="Maximum bytes of the body of a request whose viewer has signed in."
    )
    max_bodies: int = Field(
        64_000_000,
        ge=10_000,
        validate_default=True,
        description="Maximum bytes of the bodies that a process receives or parses at a time, of those above 65,536 bytes; "
        "beyond, the one that has been arriving for longest is given up.",
    )
    body_timeout: float = Field(10.0, gt=0, le=600, description="Seconds within which the whole body must arrive (slowloris).")
    max_values: int = Field(
        20_000, ge=1_000, description="Maximum number of values in the JSON of an anonymous request, or of a WebSocket message."
    )
    max_signed_in_values: int = Field(
        120_000, ge=1_000, description="Maximum number of values in the JSON of a request whose viewer has signed in."
    )
    max_document: int = Field(100_000, ge=1_000, description="Maximum characters of a GraphQL document.")
    max_tokens: int = Field(1_000, ge=100, description="Maximum lexical tokens of a document.")
    max_depth: int = Field(20, ge=3, description="Maximum depth of nested fields in a document, fragments included.")
    max_fields: int = Field(300, ge=10, description="Maximum number of fields that a document selects.")
    max_aliases: int = Field(100, ge=0, description="Maximum number of aliases in a document.")
    max_directives: int = Field(100, ge=0, description="Maximum number of directives in a document.")
    max_document_operations: int = Field(10, ge=1, description="Maximum number of operations in a document.")
    max_root_fields: int = Field(50, ge=1, description="Maximum number of root fields of an operation.")
    max_mutations: int = Field(20, ge=1, description="Maximum number of mutations in one request.")
    max_input_items: int = Field(
        2_000, ge=600, description="Maximum list items in the arguments of an operation's fields; a search counts as 250."
    )
    max_mutation_items: int = Field(
        30_000, ge=10_000, description="Maximum list items in the inputs of a request's mutations; an event counts as 30."
    )
    max_cost: int = Field(100_000, ge=100, description="Maximum query cost of an operation: fields times sizes of lists.")
    max_connections: int | None = Field(
        None,
        ge=3,
        description="Maximum connections of a process; beyond, the one that has been idle for longest is closed. Unset: seven "
        "eighths of the files that it may open (RLIMIT_NOFILE), at most 30,000.",
    )
    max_sockets: int = Field(
        10_000,
        ge=1,
        description="Maximum WebSockets of a process, and as many event streams; of each at most a third of the "
        "connections. Further ones are refused; for a WebSocket the longest idle one is closed instead, if there is any.",
    )
    max_operations: int = Field(100, ge=1, description="Maximum concurrent operations on one WebSocket.")
    max_live_lists: int = Field(
        1_000, ge=1, description="Maximum different live lists (`productList`) of a process; those of equal lists count once."
    )
    max_message: int = Field(262_144, ge=1_024, description="Maximum bytes of a message from a WebSocket client.")
    max_response: int = Field(16_000_000, ge=10_000, description="Maximum bytes of one response to an operation or a batch.")
    max_row_bytes: int = Field(
        128_000_000,
        ge=10_000,
        validate_default=True,
        description="Maximum bytes of rows that the operations of a process hold at a time; beyond, those that read much are "
        "refused.",
    )
    max_unread_connection: int = Field(
        32_000_000,
        ge=10_000,
        validate_default=True,
        description="Maximum unread bytes of one HTTP connection; beyond, the connection is aborted.",
    )
    max_unread_websocket: int = Field(
        32_000_000,
        ge=10_000,
        validate_default=True,
        description="Maximum unread bytes of one WebSocket; beyond, responses are errors until the client has read.",
    )
    max_unread: int = Field(
        256_000_000,
        ge=10_000,
        validate_default=True,
        description="Maximum unread bytes of a process; beyond, the connections that would take longest to read theirs are "
        "aborted.",
    )
    keep_alive_timeout: int = Field(
        75,
        ge=1,
        le=3600,
        description="Seconds after which a connection without a request is closed. Longer than clients and proxies keep theirs "
        "(60 in nginx): a request that is sent while the server closes the connection is lost.",
    )
    write_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds within which a client must read some of its unread bytes; else its connection is aborted.",
    )
    min_write_rate: int = Field(
        500, ge=0, description="Bytes per second of its unread bytes that a client must read, averaged over the write timeout."
    )
    init_timeout: float = Field(10.0, gt=0, le=600, description="Seconds within which a WebSocket must be initialised.")
    max_batch: int = Field(
        10, ge=0, le=100, description="Maximum number of requests in one HTTP body (a JSON array); 0: no batches."
    )

    @field_validator("max_bodies")
    @classmethod
    def _check_bodies(cls, value: int, info: ValidationInfo) -> int:
        if value < max(info.data.get("max_body", 0), info.data.get("max_signed_in_body", 0)):
            raise ValueError("must be at least STOREFRONT_MAX_BODY and STOREFRONT_MAX_SIGNED_IN_BODY: one body has to fit")
        return value

    @field_validator("max_row_bytes", "max_unread_connection", "max_unread_websocket", "max_unread")
    @classmethod
    def _check_unread(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("max_response", 0):
            raise ValueError("must be at least STOREFRONT_MAX_RESPONSE: one response has to fit")
        return value
