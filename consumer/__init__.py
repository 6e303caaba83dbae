"""The consumer's side: leases, questions, receipts, vouchers."""
