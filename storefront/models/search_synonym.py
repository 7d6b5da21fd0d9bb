"""Synonyms: words of a store that searches take for each other."""

from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY
from sqlmodel import Field

from storefront.models.columns import SQLModel, store_column


class SearchSynonym(SQLModel, table=True):
    """A word of one of the lists of synonyms of a store, with the rules by which a tsquery gets the others.

    `word`: its key, which searches have. Of each pair of arrays, one is what is replaced: `build_synonym_rules`.
    """

    __tablename__ = "search_synonyms"

    config_id: str = store_column()
    word: str = Field(primary_key=True)
    text: str
    list_number: int
    place: int
    targets: list[str] = Field(sa_type=ARRAY(TSQUERY), nullable=False)
    markers: list[str] = Field(sa_type=ARRAY(TSQUERY), nullable=False)
    replaced_markers: list[str] = Field(sa_type=ARRAY(TSQUERY), nullable=False)
    replacements: list[str] = Field(sa_type=ARRAY(TSQUERY), nullable=False)
