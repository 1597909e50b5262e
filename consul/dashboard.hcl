# Adds "Open dashboard" to the topology of each service in Consul's UI: it opens the page of an agent, which shows the
# whole fleet. Put the address that people reach there (option http_listen).
ui_config {
  enabled = true

  dashboard_url_templates {
    service = "http://127.0.0.1:7442/?service={{Service.Name}}"
  }
}
