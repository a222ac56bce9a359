"""Black-box probes of a server with OpenAI's API: one probe a file, all of them in `catalogue`.

A model may be small and answer wrongly. So no probe judges an answer by itself: it compares answers
that have to be equal, or groups of answers between which no model has a reason to differ.
"""
