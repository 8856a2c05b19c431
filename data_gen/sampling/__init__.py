"""How parts are sampled: the passes, one base sample, single samples and their prompts, and what comes next."""
