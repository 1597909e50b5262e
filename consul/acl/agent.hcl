# What every agent of the fleet "default" needs; for another, change the keys. With topology_on = false the rules
# for sessions and edges can go.
service_prefix "heartmesh-" {
  policy = "write"
}

# Consul hides the entries of nodes that may not be read.
node_prefix "" {
  policy = "read"
}

# Ends what the agent told when the agent ends. Narrow it to the node's own name if each has a token of its own.
session_prefix "" {
  policy = "write"
}

key_prefix "heartmesh/default/edges/" {
  policy = "write"
}

# Which keys were revoked. Not needed with curve = false.
key "heartmesh/default/revoked" {
  policy = "read"
}
