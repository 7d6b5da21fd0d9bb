import type { ProductRowFragment, WriteErrorFragment } from './generated.js';

/** An error as the server sends it. */
export interface GraphQLErrorBody {
  readonly message: string;
  readonly path?: ReadonlyArray<string | number>;
  readonly extensions?: { readonly code?: string; readonly field?: string; readonly requestId?: string; readonly [name: string]: unknown };
}

export interface ErrorDetails {
  code?: string;
  errors?: readonly GraphQLErrorBody[];
  data?: unknown;
  requestId?: string;
  retryAfterMs?: number;
  cause?: unknown;
}

/** Any failure of a request. Its subclasses follow `extensions.code`. */
export class StorefrontError extends Error {
  override readonly name: string = 'StorefrontError';
  /** `extensions.code` of the first error; `NETWORK` if there was no answer. */
  readonly code: string;
  /** All errors of the answer. */
  readonly errors: readonly GraphQLErrorBody[];
  /** What the answer has besides the errors. */
  readonly data: unknown;
  /** The id under which the server's log has the details. */
  readonly requestId: string | undefined;
  /** Milliseconds after which the server wants to be asked again. */
  readonly retryAfterMs: number | undefined;
  /** Whether the same request may succeed later. What the server refuses, it refuses again. */
  readonly isRetryable: boolean = false;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, { cause: details.cause });
    this.code = details.code ?? 'UNKNOWN';
    this.errors = details.errors ?? [];
    this.data = details.data;
    this.requestId = details.requestId ?? details.errors?.[0]?.extensions?.requestId;
    this.retryAfterMs = details.retryAfterMs;
  }

  /** The name of the invalid variable or argument. */
  get field(): string | undefined {
    return this.errors[0]?.extensions?.field;
  }
}

/** No answer: the connection was lost, or the time is up. */
export class NetworkError extends StorefrontError {
  override readonly name = 'NetworkError';
  override readonly isRetryable = true;
}

/** `INTERNAL_SERVER_ERROR`, `SERVICE_UNAVAILABLE`, `TIMEOUT`. */
export class ServerError extends StorefrontError {
  override readonly name = 'ServerError';
  override readonly isRetryable = true;
}

/** `RATE_LIMITED`. */
export class RateLimitedError extends StorefrontError {
  override readonly name = 'RateLimitedError';
  override readonly isRetryable = true;
}

/** `UNAUTHENTICATED`: the token is missing or not valid. */
export class UnauthenticatedError extends StorefrontError {
  override readonly name = 'UnauthenticatedError';
}

/** `FORBIDDEN`: the viewer is not the owner. */
export class ForbiddenError extends StorefrontError {
  override readonly name = 'ForbiddenError';
}

/** `NOT_FOUND`. */
export class NotFoundError extends StorefrontError {
  override readonly name = 'NotFoundError';
}

/** `BAD_USER_INPUT`: `field` names the variable or argument. */
export class BadUserInputError extends StorefrontError {
  override readonly name = 'BadUserInputError';
}

/** The document or the request itself is at fault: syntax, validation, limits, an unknown persisted document. */
export class BadRequestError extends StorefrontError {
  override readonly name = 'BadRequestError';
}

/** A mutation had no effect: `userErrors` has the reasons. */
export class WriteRefusedError extends StorefrontError {
  override readonly name: string = 'WriteRefusedError';
  readonly userErrors: readonly WriteErrorFragment[];

  constructor(userErrors: readonly WriteErrorFragment[], cause?: unknown) {
    const first = userErrors[0];
    const place = first?.path.length ? `${first.path.join('.')}: ` : '';
    super(first ? place + first.message : 'The write was refused.', { code: first?.code, cause });
    this.userErrors = userErrors;
  }
}

/** Another user has changed the same product since it was read. */
export class ConflictError extends WriteRefusedError {
  override readonly name = 'ConflictError';
  /** Fields that others have changed since. */
  readonly changedFields: readonly string[];

  constructor(
    userErrors: readonly WriteErrorFragment[],
    /** The product as it was when it was edited. */
    readonly base: ProductRowFragment | undefined,
    /** The values that were to be written. */
    readonly mine: object,
    /** The product as it is now; null if it is gone. */
    readonly theirs: ProductRowFragment | null,
    changedFields: readonly string[],
  ) {
    super(userErrors);
    this.changedFields = changedFields;
  }
}

/** A write was sent more than 23 hours ago without an answer. Whether it was done is not known, and it is not sent again. */
export class OutcomeUnknownError extends StorefrontError {
  override readonly name = 'OutcomeUnknownError';
}

type ErrorClass = new (message: string, details: ErrorDetails) => StorefrontError;

function chooseClass(code: string): ErrorClass {
  switch (code) {
    case 'INTERNAL_SERVER_ERROR':
    case 'SERVICE_UNAVAILABLE':
    case 'TIMEOUT':
      return ServerError;
    case 'RATE_LIMITED':
      return RateLimitedError;
    case 'UNAUTHENTICATED':
      return UnauthenticatedError;
    case 'FORBIDDEN':
      return ForbiddenError;
    case 'NOT_FOUND':
      return NotFoundError;
    case 'BAD_USER_INPUT':
      return BadUserInputError;
    default:
      return /^(BAD_REQUEST|GRAPHQL_|PERSISTED_|LIMIT_|MAX_)/.test(code) ? BadRequestError : StorefrontError;
  }
}

/** The error of a response, by the code of its first error. */
export function createError(errors: readonly GraphQLErrorBody[], details: Omit<ErrorDetails, 'code' | 'errors'> = {}): StorefrontError {
  const code = errors[0]?.extensions?.code ?? 'UNKNOWN';
  return new (chooseClass(code))(errors[0]?.message ?? 'The request failed.', { ...details, code, errors });
}

/** The error of a response that is not GraphQL, such as one of a proxy. */
export function createStatusError(status: number, details: ErrorDetails): StorefrontError {
  const code = { 401: 'UNAUTHENTICATED', 403: 'FORBIDDEN', 404: 'NOT_FOUND', 429: 'RATE_LIMITED' }[status];
  return createError([{ message: `The server answered with status ${status}.`, extensions: { code: code ?? (status >= 500 ? 'SERVICE_UNAVAILABLE' : 'BAD_REQUEST') } }], details);
}

/** Any thrown value as an Error. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new StorefrontError(String(thrown));
}
