# One development server: the UI on, data in memory, nothing heard or said outside this machine.
# Run it with `-dev`, which fills in the rest (consul/README.md).

node_name            = "dev"
bind_addr            = "127.0.0.1"
client_addr          = "127.0.0.1"
disable_update_check = true
log_level            = "warn"

ui_config {
  enabled = true
}

ports {
  dns      = -1
  grpc     = -1
  grpc_tls = -1
}

# The topology tab draws what a service may call. By default everything may call everything, and the picture is a
# ball of wool; denied unless an intention allows it, only real calls are drawn. No token is asked for.
acl {
  default_policy = "deny"
}
