"""Running code that a model wrote, shut off from the machine it runs on."""
