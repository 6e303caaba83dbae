import { ponder } from "ponder:registry";
import { balance, transfer } from "ponder:schema";
import { zeroAddress } from "viem";

ponder.on("Token:Transfer", async ({ event, context }) => {
  const { from, to, value } = event.args;
  const token = event.log.address;
  for (const [owner, change] of [[from, -value], [to, value]] as const) {
    if (owner === zeroAddress) continue;
    await context.db
      .insert(balance)
      .values({ token, owner, balance: change })
      .onConflictDoUpdate((row) => ({ balance: row.balance + change }));
  }
  await context.db.insert(transfer).values({
    blockNumber: event.block.number,
    logIndex: event.log.logIndex,
    blockTime: event.block.timestamp,
    token,
    sender: from,
    receiver: to,
    amount: value,
  });
});
