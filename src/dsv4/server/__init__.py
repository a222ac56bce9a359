"""HTTP: the OpenAI-style dialect over the events of `dsv4.chat`."""
