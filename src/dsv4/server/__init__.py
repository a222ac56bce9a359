"""HTTP: the dialects of DeepSeek, OpenAI and Anthropic over the events of `dsv4.chat`."""
