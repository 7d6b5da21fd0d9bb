/** The text of an operation, with the types of its result and variables. */
export type TypedString<TResult, TVariables> = string & TypedDocument<TResult, TVariables>;

/**
 * A document whose types are known: a `TypedString` of this package, or a `TypedDocumentString` or `TypedDocumentNode` of GraphQL Code
 * Generator. Nodes must have been parsed with their locations, as `gql` and `parse` do; others should be generated as strings.
 */
export interface TypedDocument<TResult, TVariables> {
  __apiType?: (variables: TVariables) => TResult;
}

interface LocatedNode {
  loc?: { source: { body: string } };
}

/** The text of a document. */
export function getText(document: string | TypedDocument<unknown, never>): string {
  if (typeof document === 'string' || document instanceof String) return String(document);
  const text = (document as LocatedNode).loc?.source.body;
  if (text === undefined) throw new TypeError("The document has no text: generate documents as strings (documentMode: 'string').");
  return text;
}

/** The kind of the operation of a text. Texts of several operations count as what they begin with. */
export function getOperationKind(text: string): 'query' | 'mutation' | 'subscription' {
  const kind = /^(?:\s|,|#.*)*(mutation|subscription)\b/.exec(text)?.[1];
  return kind === 'mutation' || kind === 'subscription' ? kind : 'query';
}
