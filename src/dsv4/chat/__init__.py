"""Messages in, events out: joins the chat encoding with the engine."""
