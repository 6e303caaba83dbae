"""The tables, their migrations, and the two databases that hold them."""
