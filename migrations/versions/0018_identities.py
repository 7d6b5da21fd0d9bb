"""Identities of users in a table of their own, and verified addresses in another: an address alone proves nothing.

Which addresses were verified was not recorded. Those of tokens of our own, and of users without a `sub`, were vouched for by the
operator. Those of other issuers become verified with the next token that calls them so. Where the same address is written in two
ways, it leads to the user who was there first; the others keep all that they have, and `storefront doctor` lists them.
"""

import sqlalchemy as sa
from alembic import op

from storefront.core.auth.email_addresses import normalize_email

revision = "20261205_identities"
down_revision = "20261204_products_by_grain"
branch_labels = None
depends_on = None

BATCH = 5_000

# Tokens that were printed for users of other issuers name issuer and `sub` together, and stay valid. They also state an address,
# which may have been another person's: it never counts as the newest.
OWN = """
INSERT INTO user_identities (issuer, subject, user_id, email, stated_at, created_at)
SELECT 'storefront', subject, id, CASE WHEN subject !~ :others THEN email END,
       CASE WHEN subject !~ :others THEN CAST('epoch' AS timestamptz) ELSE 'infinity' END, created_at
FROM users WHERE subject IS NOT NULL
"""
OTHERS = r"^(https?://[^|]+|authjs)\|"
OTHER = """
INSERT INTO user_identities (issuer, subject, user_id, email, created_at)
SELECT split_part(subject, '|', 1), substr(subject, strpos(subject, '|') + 1), id, email, created_at
FROM users WHERE subject ~ :others AND substr(subject, strpos(subject, '|') + 1) <> ''
"""
VOUCHED = "SELECT id, email FROM users WHERE subject IS NULL OR subject !~ :others ORDER BY created_at, id"
PROVEN = "INSERT INTO verified_emails (address, user_id) VALUES (:address, :user_id) ON CONFLICT DO NOTHING"
STATED = "UPDATE user_identities SET verified_email = :address WHERE user_id = :user_id AND email IS NOT NULL"

SUBJECTS = """
UPDATE users SET subject = (
  SELECT CASE issuer WHEN 'storefront' THEN subject ELSE issuer || '|' || subject END FROM user_identities
  WHERE user_id = users.id ORDER BY issuer = 'storefront', created_at, subject LIMIT 1)
"""
# An address of several users stays with its current user, or the oldest one.
ADDRESSES = """
UPDATE users SET email = id || '@address.invalid'
FROM (SELECT users.id AS other, row_number() OVER (
        PARTITION BY email ORDER BY EXISTS (SELECT FROM verified_emails WHERE user_id = users.id) DESC, created_at, id
      ) AS place FROM users) AS placed
WHERE placed.other = users.id AND placed.place > 1
"""


def upgrade() -> None:
    op.create_table(
        "user_identities",
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("verified_email", sa.String(), nullable=True),
        sa.Column("stated_at", sa.DateTime(timezone=True), server_default=sa.text("'epoch'::timestamptz"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="user_identities_user_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("issuer", "subject", name="user_identities_pkey"),
    )
    op.create_index("user_identities_user_id_idx", "user_identities", ["user_id"])
    op.create_table(
        "verified_emails",
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="verified_emails_user_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("address", name="verified_emails_pkey"),
    )
    op.create_index("verified_emails_user_id_idx", "verified_emails", ["user_id"])
    connection = op.get_bind()
    for statement in (OWN, OTHER):
        connection.execute(sa.text(statement), {"others": OTHERS})
    _verify(connection)
    op.drop_constraint("users_email_key", "users")
    op.drop_column("users", "subject")


def _verify(connection: sa.Connection) -> None:
    with connection.execute(sa.text(VOUCHED), {"others": OTHERS}, execution_options={"yield_per": BATCH}) as vouched:
        for users in vouched.partitions():
            addresses = [{"user_id": user.id, "address": normalize_email(user.email)} for user in users]
            if known := [address for address in addresses if address["address"]]:
                connection.execute(sa.text(PROVEN), known)
                connection.execute(sa.text(STATED), known)


def downgrade() -> None:
    op.add_column("users", sa.Column("subject", sa.String(), nullable=True))
    op.execute(SUBJECTS)
    op.execute(ADDRESSES)
    op.create_unique_constraint("users_subject_key", "users", ["subject"])
    op.create_unique_constraint("users_email_key", "users", ["email"])
    op.drop_table("verified_emails")
    op.drop_table("user_identities")
