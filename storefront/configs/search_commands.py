"""Commands that write what the owner of a store sets about its searches."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import orjson
from sqlalchemy import text

from storefront.core.cooperative import run_in_thread_if_long
from storefront.core.db.database import Statement, compile_statement
from storefront.core.search_words import Chunk
from storefront.models.rows import ConfigRow
from storefront.queries.search import MAX_SYNONYM_WORDS, build_synonym_rules, build_word_key, split_synonym
from storefront.writes import validation
from storefront.writes.authorization import lock_own_store
from storefront.writes.changelog import record_store_change
from storefront.writes.field_errors import InvalidInputReason, MutationRejected, make_invalid_input_error
from storefront.writes.transaction import UnitOfWork
from storefront.writes.validation import list_rule, text_rule

MAX_SYNONYM_LISTS, MAX_SYNONYMS, MAX_SYNONYM_CHARACTERS = 100, 10, 60

# Of `run_in_thread_if_long`.
_STEPS_PER_WORD = 5

RULES: validation.Rules = {
    "configId": validation.validate_id,
    "synonyms": list_rule(
        list_rule(text_rule(MAX_SYNONYM_CHARACTERS), MAX_SYNONYMS, distinct=False), MAX_SYNONYM_LISTS, distinct=False
    ),
}


async def update_search_settings(unit: UnitOfWork, values: Mapping[str, Any]) -> Sequence[ConfigRow]:
    """Replace the synonyms of a store. Returns the store."""
    clean = validation.require_valid_fields(RULES, values)
    words = sum(map(len, clean["synonyms"]))
    rows = await run_in_thread_if_long(words * _STEPS_PER_WORD, _build_rows, clean["synonyms"])
    store = await lock_own_store(unit, clean["configId"], ["configId"])
    [stored] = await unit.fetch(_select_synonyms(), {"config_id": store.id})
    if stored.synonyms != [[row["list_number"], row["text"]] for row in rows]:
        unit.enqueue(_delete_synonyms(), {"config_id": store.id})
        unit.enqueue(_insert_synonyms(), {"config_id": store.id, "rows": orjson.dumps(rows).decode()})
        record_store_change(unit, store, "searchSettings")
    return [store]


def _build_rows(synonyms: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The rows of lists of synonyms. Raises MutationRejected for what is no word, or in two places."""
    rows, text_by_word = list[dict[str, Any]](), dict[str, str]()
    for list_number, texts in enumerate(synonyms):
        if len(texts) < 2:
            problem = "a list needs two words or more, which are searched for each other."
            raise _reject(InvalidInputReason.TOO_SHORT, problem, list_number)
        split_texts = list[list[Chunk]]()
        for place, written in enumerate(texts):
            chunks = split_synonym(written)
            if not chunks or len(chunks) > MAX_SYNONYM_WORDS or (len(chunks) > 1 and not all(chunk.plain for chunk in chunks)):
                problem = f"{written!r} must be one word, or {MAX_SYNONYM_WORDS} plain words."
                raise _reject(InvalidInputReason.MALFORMED, problem, list_number, place)
            word = build_word_key(chunks)
            if word in text_by_word:
                problem = f"{written!r} is the same word as {text_by_word[word]!r}. List each once."
                raise _reject(InvalidInputReason.DUPLICATE, problem, list_number, place)
            text_by_word[word] = written
            split_texts.append(chunks)
        for place, (written, rules) in enumerate(zip(texts, build_synonym_rules(split_texts), strict=True)):
            rows.append({"list_number": list_number, "place": place, "text": written, **asdict(rules)})
    return rows


def _reject(reason: InvalidInputReason, problem: str, *place: int) -> MutationRejected:
    return MutationRejected(make_invalid_input_error(("synonyms", *map(str, place)), problem, reason))


@cache
def _select_synonyms() -> Statement:
    sql = """
SELECT coalesce(jsonb_agg(jsonb_build_array(list_number, text) ORDER BY list_number, place), '[]') AS synonyms
FROM search_synonyms WHERE config_id = CAST(:config_id AS uuid)
"""
    return compile_statement(text(sql))


@cache
def _delete_synonyms() -> Statement:
    return compile_statement(text("DELETE FROM search_synonyms WHERE config_id = CAST(:config_id AS uuid)"))


@cache
def _insert_synonyms() -> Statement:
    rules = "targets", "markers", "replaced_markers", "replacements"
    sql = f"""
INSERT INTO search_synonyms (config_id, list_number, place, text, word, {", ".join(rules)})
SELECT CAST(:config_id AS uuid), list_number, place, text, word, {", ".join(f"{name}::tsquery[]" for name in rules)}
FROM jsonb_to_recordset(CAST(:rows AS jsonb))
  AS given (list_number int, place int, text text, word text, {", ".join(f"{name} text[]" for name in rules)})
"""
    return compile_statement(text(sql.replace("::", "\\:\\:")))
