"""`make demo`: the market's main job on this machine, with real processes and a real model.

Anvil, the deployment, two providers' workers with their engines, Postgres with the indexer, and the gateway, which
finds the providers there. Two questions; the second one's provider is killed half-way and the other one finishes the
answer. Then budgets, settlement, receipts proven under anchored roots, the killed worker's return, and everybody's
money out again. Every sum is checked to the last unit, in the indexer's tables too; any step that is off ends the run
with a non-zero code.
"""
