# What an agent with the role topology_keeper needs beside agent.hcl; for another fleet than "default", change the key and
# the node, whose name the agent says where it lacks the right.
service_prefix "heartmesh-" {
  policy     = "write"
  intentions = "write"
}

# No machine: the proxies that Consul's UI draws stand there.
node "heartmesh-topology" {
  policy = "write"
}

key "heartmesh/default/keeper" {
  policy = "write"
}
