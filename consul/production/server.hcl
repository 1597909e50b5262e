# One of three or five servers. Put in the addresses; keys, certificates and the gossip key are the site's own and stand in
# files beside this one, not in it.

server           = true
bootstrap_expect = 3
retry_join       = ["consul1.example", "consul2.example", "consul3.example"]
data_dir         = "/var/lib/consul"
client_addr      = "127.0.0.1"

disable_update_check = true

ui_config {
  enabled = true
}

acl {
  enabled                  = true
  default_policy           = "deny"
  enable_token_persistence = true
}
