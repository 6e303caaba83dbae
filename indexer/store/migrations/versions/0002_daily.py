"""Sums by day, histories of parameters and offers, and the cache of documents.

The new derived tables need every event once more, so what was read before is forgotten and read from the chain again.
"""

import sqlalchemy as sa
from alembic import op

from indexer.store.columns import Uint256

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for name in sa.inspect(op.get_bind()).get_table_names():
        if name != "alembic_version":
            op.execute(sa.delete(sa.table(name)))
    op.create_table(
        "daily_anchor",
        sa.Column("day", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("provider", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("anchors", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("day", "provider"),
    )
    op.create_table(
        "daily_usage",
        sa.Column("day", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("provider", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("offer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=False),
        sa.Column("volume", Uint256(), autoincrement=False, nullable=False),
        sa.Column("fees", Uint256(), autoincrement=False, nullable=False),
        sa.Column("disowned_fees", Uint256(), autoincrement=False, nullable=False),
        sa.Column("refunded", Uint256(), autoincrement=False, nullable=False),
        sa.Column("settlements", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("leases_opened", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("leases_released", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("day", "provider", "offer_id", "version"),
    )
    op.create_table(
        "deregistration",
        sa.Column("block_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("log_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("block_time", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("provider", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("block_number", "log_index"),
    )
    op.create_table(
        "offer_document",
        sa.Column("terms_digest", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("price_in", Uint256(), autoincrement=False, nullable=False),
        sa.Column("price_out", Uint256(), autoincrement=False, nullable=False),
        sa.Column("price_cached", Uint256(), autoincrement=False, nullable=False),
        sa.Column("unit_scale", Uint256(), autoincrement=False, nullable=False),
        sa.Column("sla_ttft_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sla_milli_tokens_per_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sla_credit_bps", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("period", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("fetched_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("terms_digest"),
    )
    op.create_table(
        "offer_switch",
        sa.Column("block_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("log_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("block_time", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("provider", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("offer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("block_number", "log_index"),
    )
    op.create_table(
        "parameter_change",
        sa.Column("block_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("log_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("block_time", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("old_value", Uint256(), autoincrement=False, nullable=False),
        sa.Column("new_value", Uint256(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("block_number", "log_index"),
    )
    op.create_table(
        "provider_document",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("provider", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("node_key", sa.LargeBinary(), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("fetched_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
