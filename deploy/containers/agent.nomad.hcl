# An agent on each client of Nomad. Needs: the image, the directories and the node's keys (docs/containers.md), a Consul agent
# at each client's 127.0.0.1:8500, and of the driver `volumes { enabled = true }` and `allow_privileged = true`, which
# pid_mode asks for.
job "heartmesh-agent" {
  type = "system"

  # One client after the other, each once the last one's agent is well.
  update {
    max_parallel = 1
    stagger      = "15s"
  }

  group "agent" {
    restart {
      attempts = 10
      interval = "1m"
      delay    = "1s"
      mode     = "delay"
    }

    task "agent" {
      driver = "docker"
      user   = "7441:7441"

      # It drains for drain_s, 30 s, when it is told to end.
      kill_signal  = "SIGTERM"
      kill_timeout = "45s"

      config {
        image        = "heartmesh:0.1.0"
        network_mode = "host"
        pid_mode     = "host"
        args         = ["agent", "--config", "${NOMAD_TASK_DIR}/agent.toml"]
        volumes      = ["/run/mesh:/run/mesh", "/var/lib/mesh:/var/lib/mesh"]
      }

      env {
        MESH_NODE_ID = "${node.unique.name}"
      }

      template {
        destination = "local/agent.toml"
        change_mode = "restart"
        data        = <<-END
          preset = "lan"

          [agent]
          socket = "/run/mesh/agent.sock"
        END
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
