//go:build tools

// Package tools names the Consul command, so that this module's go.mod pins it and everything it is built from.
package tools

import _ "github.com/hashicorp/consul"
