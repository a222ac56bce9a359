"""What tokens cost: dated prices of hosted APIs, in exact decimal arithmetic."""
