"""Functions of generated columns are compiled once per connection, no longer planned for each statement that writes a row."""

from alembic import op

revision = "0042_compiled_functions"
down_revision = "0041_summaries_by_commands"
branch_labels = None
depends_on = None

# All return what they returned, so that stored values stay. In SQL, Postgres inlines or plans the body of each call in each
# INSERT and UPDATE again. Only functions of Postgres itself are called, so that a restore needs no search path.
#
# ASCII has no accents. In the collation C, so that in a Turkish database I becomes i, as `translate` makes it of other texts.
FOLD = r"""
CREATE OR REPLACE FUNCTION storefront_fold(text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
  IF octet_length($1) = length($1) THEN
    RETURN lower($1 COLLATE "C");
  END IF;
  RETURN replace(replace(replace(replace(
    translate(lower(regexp_replace(normalize($1, NFKD), '[\u0300-\u036f]', '', 'g')), 'øłđðıς', 'olddiσ'),
  'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th');
END $$
"""
LIST_PATHS = r"""
CREATE OR REPLACE FUNCTION storefront_list_category_paths(category text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  paths text[] := '{}';
  path text;
  name text;
BEGIN
  FOREACH name IN ARRAY coalesce(string_to_array(category, '>'), '{}') LOOP
    name := btrim(name, E' \t\n\r\f\v');
    IF name <> '' THEN
      path := concat_ws(' > ', path, name);
      paths := paths || path;
    END IF;
  END LOOP;
  RETURN paths;
END $$
"""
FORMER_FOLD = r"""
CREATE OR REPLACE FUNCTION storefront_fold(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN
  replace(replace(replace(replace(
    translate(lower(regexp_replace(normalize($1, NFKD), '[\u0300-\u036f]', '', 'g')), 'øłđðıς', 'olddiσ'),
  'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th')
"""
FORMER_LIST_PATHS = r"""
CREATE OR REPLACE FUNCTION storefront_list_category_paths(category text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE WHEN category IS NULL THEN ARRAY[]::text[] ELSE (
  SELECT coalesce(array_agg(path ORDER BY number), ARRAY[]::text[]) FROM (
    SELECT part.number, string_agg(btrim(part.name, E' \t\n\r\f\v'), ' > ') OVER (ORDER BY part.number) AS path
    FROM string_to_table(category, '>') WITH ORDINALITY AS part (name, number)
    WHERE btrim(part.name, E' \t\n\r\f\v') <> ''
  ) AS paths
) END
$$
"""


def upgrade() -> None:
    """Write the functions in PL/pgSQL."""
    op.execute(FOLD)
    op.execute(LIST_PATHS)


def downgrade() -> None:
    """Write them in SQL."""
    op.execute(FORMER_LIST_PATHS)
    op.execute(FORMER_FOLD)
