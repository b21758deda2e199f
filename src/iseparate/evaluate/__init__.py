"""How good a separation is, and how good it could be at best."""
