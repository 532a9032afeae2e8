"""More digits than a dtype has: what `refine=True` computes with."""
