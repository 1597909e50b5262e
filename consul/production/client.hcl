# Every other machine: its agent of the mesh talks to this one, over loopback, and to no server.

retry_join  = ["consul1.example", "consul2.example", "consul3.example"]
data_dir    = "/var/lib/consul"
client_addr = "127.0.0.1"

disable_update_check = true

# Each watched topic is one open request (option watches_max); the usual 200 are few beside other users of this Consul.
limits {
  http_max_conns_per_client = 400
}

acl {
  enabled                  = true
  default_policy           = "deny"
  enable_token_persistence = true
}
