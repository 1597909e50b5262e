"""Keys, certificates, and the verdicts on them. What only compares is in `mesh.core.identity`."""
