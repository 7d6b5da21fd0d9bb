"""Names sort as people read them: numbers by value, without accents, case and punctuation, in any script."""

from alembic import op

revision = "0033_sort_keys"
down_revision = "0032_former_names"
branch_labels = None
depends_on = None

# Accents and points that `storefront_fold` does not remove. Vowel signs of Indic scripts stay, as they are letters.
MARKS = (
    r"[\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc"
    r"\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u093c\u09bc\u0a3c\u0abc\u0b3c\u0e47-\u0e4e\u0ec8-\u0ecd\u1ab0-\u1aff\u1dc0-\u1dff"
    r"\u20d0-\u20ff\u3099\u309a\ufe00-\ufe0f\ufe20-\ufe2f\u2019\u02bc]"
)
# Punctuation and symbols: a space instead.
PUNCTUATION = (
    r"[\u0001-\u002f\u003a-\u0060\u007b-\u00bf\u00d7\u00f7\u055a-\u055f\u0589\u058a\u05be\u05f3\u05f4\u060c\u061b\u061f\u066a-\u066d"
    r"\u06d4\u0964\u0965\u2000-\u206f\u20a0-\u20c0\u2100-\u2bff\u3000-\u3003\u3008-\u3020\u3030\u30fb\ufe30-\ufe6f"
    r"\U0001f000-\U0001faff]+"
)
# The zeros of the decimal digits of other scripts.
ZEROS = (
    "\u0660\u06f0\u07c0\u0966\u09e6\u0a66\u0ae6\u0b66\u0be6\u0c66\u0ce6\u0d66\u0de6\u0e50\u0ed0\u0f20\u1040\u1090\u17e0\u1810"
    "\u1946\u19d0\u1a80\u1a90\u1b50\u1bb0\u1c40\u1c50\ua620\ua8d0\ua900\ua9d0\ua9f0\uaa50\uabf0"
)
DIGITS = "".join(chr(ord(zero) + value) for zero in ZEROS for value in range(10))
KATAKANA, HIRAGANA = ("".join(map(chr, range(first, first + 86))) for first in (0x30A1, 0x3041))
# Thai and Lao write some vowels before the consonant that they follow in dictionaries.
LEADING_VOWEL = r"([\u0e40-\u0e44\u0ec0-\u0ec4])([\u0e01-\u0e2e\u0e81-\u0eae])"

# Of a text from `storefront_fold`: this function calls only functions of Postgres itself, so that it works for a restore, which has
# no search path. In SQL it takes three times as long: what is not inlined is planned and started for each row.
#
# `translate` compares each letter with each of its own, hence the conditions. A number is its length, of one digit or of four that
# begin with 9, and its digits without leading zeros: then numbers compare as texts do. Where the key differs from the text, the
# text follows it, so that "C" comes before "C++". The end of a long key is cut off: an index entry has at most 2,704 bytes.
SORT_KEY = rf"""
CREATE FUNCTION storefront_sort_key(folded text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  key text := replace(folded, '''', '');
  done text := '';
  digits text;
  number text;
  place integer;
BEGIN
  IF octet_length(key) > length(key) THEN
    key := regexp_replace(key, '{MARKS}', '', 'g');
    IF key ~ '[{DIGITS}]' THEN
      key := translate(key, '{DIGITS}', '{"0123456789" * len(ZEROS)}');
    END IF;
    IF key ~ '[{KATAKANA}]' THEN
      key := translate(key, '{KATAKANA}', '{HIRAGANA}');
    END IF;
    key := regexp_replace(key, '{LEADING_VOWEL}', '\2\1', 'g');
  END IF;
  key := btrim(regexp_replace(key, '{PUNCTUATION}', ' ', 'g'));
  LOOP
    digits := substring(key FROM '[0-9]+');
    EXIT WHEN digits IS NULL;
    place := strpos(key, digits);
    number := ltrim(digits, '0');
    done := done || left(key, place - 1)
      || CASE WHEN length(number) < 9 THEN length(number)::text ELSE '9' || lpad(least(length(number), 999)::text, 3, '0') END
      || number;
    key := substr(key, place + length(digits));
  END LOOP;
  key := done || key;
  RETURN left(CASE WHEN key = folded THEN key ELSE key || E'\x01' || folded END, 500);
END $$
"""

# Postgres 17 is the first that can change the expression of a generated column.
SORT_TITLE = """
ALTER TABLE products DROP COLUMN sort_title;
ALTER TABLE products ADD COLUMN sort_title text COLLATE "C" GENERATED ALWAYS AS ({expression}) STORED NOT NULL;
CREATE INDEX products_by_sort_title_idx ON products (config_id, sort_title, id);
"""


def upgrade() -> None:
    op.execute(SORT_KEY)
    op.execute(SORT_TITLE.format(expression="storefront_sort_key(storefront_fold(title))"))


def downgrade() -> None:
    op.execute(SORT_TITLE.format(expression="storefront_fold(title)"))
    op.execute("DROP FUNCTION storefront_sort_key(text)")
