# What whoever revokes keys needs for `mesh keys publish`; for another fleet than "default", change the key. Agents only
# read it.
key "heartmesh/default/revoked" {
  policy = "write"
}
