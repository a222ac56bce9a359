"""The meaning of every op, in plain torch: readable, differentiable, depends on no kernel."""
