"""Where durable casts are kept: the verbs of a spool, and its kinds."""
