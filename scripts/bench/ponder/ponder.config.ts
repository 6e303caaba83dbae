import { createConfig } from "ponder";
import { erc20 } from "./abi";

export default createConfig({
  database: { kind: "postgres", connectionString: process.env.DATABASE_URL },
  chains: {
    anvil: { id: Number(process.env.CHAIN_ID), rpc: process.env.RPC_URL, pollingInterval: 100 },
  },
  contracts: {
    Token: {
      chain: "anvil",
      abi: erc20,
      address: process.env.TOKEN as `0x${string}`,
      startBlock: Number(process.env.START_BLOCK),
    },
  },
});
