"""Golden packs: inputs and outputs of a checkpoint's parts, for whoever writes another engine."""
