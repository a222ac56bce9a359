"""Is this deployment right? What is wrong with a checkpoint, and where numbers first diverge."""
