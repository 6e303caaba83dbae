import { onchainTable, primaryKey } from "ponder";

export const balance = onchainTable(
  "balance",
  (t) => ({ token: t.hex().notNull(), owner: t.hex().notNull(), balance: t.bigint().notNull() }),
  (table) => ({ pk: primaryKey({ columns: [table.token, table.owner] }) }),
);

export const transfer = onchainTable(
  "transfer",
  (t) => ({
    blockNumber: t.bigint().notNull(),
    logIndex: t.integer().notNull(),
    blockTime: t.bigint().notNull(),
    token: t.hex().notNull(),
    sender: t.hex().notNull(),
    receiver: t.hex().notNull(),
    amount: t.bigint().notNull(),
  }),
  (table) => ({ pk: primaryKey({ columns: [table.blockNumber, table.logIndex] }) }),
);
