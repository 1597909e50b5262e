"""How agents find each other: memory (tests), SQLite (one machine), Consul (a fleet)."""
